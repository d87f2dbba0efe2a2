"""The command `rebasin prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import RUNNING, Data
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.presentation.work import Work

_option = option("Pruning")
Sparsity = Annotated[
    float | None,
    _option(
        "--sparsity",
        metavar="SHARE",
        help="The share of the weights that become zero, as 0.8.",
    ),
]
Method = Annotated[
    str,
    _option(
        "--method",
        metavar="magnitude|layer-magnitude|diagonal-fisher|block-fisher",
        help="The smallest of all tensors together, or of each by itself; or those that cost least "
        "by the gradients on --data, blocks with an update of the others (WoodFisher).",
    ),
]
PatternText = Annotated[
    str | None,
    _option(
        "--pattern",
        metavar="N:M",
        help="In place of a share: of every M neighbours along the inputs at most N stay, as 2:4.",
    ),
]
BlockSize = Annotated[
    int | None,
    _option(
        "--block-size",
        metavar="N",
        min=1,
        help="Weights of a row that are judged and updated together by block-fisher. Default: 64.",
    ),
]
Damping = Annotated[
    float | None,
    _option(
        "--damping",
        metavar="SHARE",
        help="Lambda of block-fisher, as a share of the mean of the diagonal. Default: 1.",
    ),
]
Renormalize = Annotated[
    str | None,
    _option(
        "--renormalize",
        metavar="reset|repair|rescale|reshift",
        help="Then correct its statistics by those of the dense model, see `rebasin renormalize`.",
    ),
]

FIRST = (
    *("sparsity", "pattern", "how", "block_size", "damping", "renormalize", "out"),
    *("only", "skip", "device", "max_memory", "seed"),
)


@with_options("model", *FIRST)
def prune(
    model: Annotated[Path, argument("MODEL")],
    sparsity: Sparsity = None,
    how: Method = "magnitude",
    renormalize: Renormalize = None,
    *,
    pattern: PatternText = None,
    block_size: BlockSize = None,
    damping: Damping = None,
    selection: Annotated[Selection, offer("only", "skip", *READING, "only_part")],
    output: Annotated[Output, offer("out", *FORMING)],
    computing: Annotated[Computing, offer("device", "max_memory", "seed")],
    display: Annotated[Display, offer(*SHOWING)],
    tracing: Annotated[Tracing, offer("target", "arguments")],
    data: Annotated[Data, offer(*RUNNING)],
) -> Work:
    """Set the smallest weights of MODEL to zero: exactly the share that is asked for.

    Writes NAME.pruned.EXT. Weights are floating tensors of two or more axes; biases, norms and
    tables of embeddings stay as they are, unless --only names them. Tied tensors are pruned once.
    Safetensors metadata keep the masks. By magnitude nothing is run. The Fisher methods need
    --model and labelled --data. So does --renormalize, without labels, which gives the pruned model
    the statistics of MODEL: zeros stay zeros.

    Examples:

        rebasin prune model.safetensors --sparsity 0.8

        rebasin prune model.pt --sparsity 0.5 --method layer-magnitude --skip 'fc.*'

        rebasin prune model.pt --pattern 2:4 --method block-fisher --model net.py:Net --data d.py:f

        rebasin prune model.pt --sparsity 0.8 --renormalize reset --model net.py:Net --data d.py:f
    """
    from rebasin_cli.commands.prune.fisher.plan import FisherOptions
    from rebasin_cli.commands.prune.plan import PruneRequest, plan_prune
    from rebasin_cli.commands.prune.report import PRESENTERS
    from rebasin_cli.commands.prune.run import run_prune

    request = PruneRequest(
        model=named_path(model),
        sparsity=sparsity,
        method=how,
        pattern=pattern,
        fisher=FisherOptions(block_size, damping),
        renormalize=renormalize,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target, data.data),
        data=data,
    )
    return Work("prune", display, planned_by(plan_prune, request), run_prune, PRESENTERS)
