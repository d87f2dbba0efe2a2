"""The command `rebasin prune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.data import RUNNING, Data
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, flags_in, options_of, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.presentation.work import Work

_option = flags_in("Pruning")


@dataclass(frozen=True)
class PruneRequest:
    """What is pruned, and by how much: a share, or a pattern such as 2:4.

    block_size, damping: None: the usual ones, where the method asks for them. renormalize: how the
    statistics are corrected afterwards, with the dense model as the parent.
    """

    model: Path = argument("MODEL", parse=named_path)
    sparsity: float | None = _option(
        "--sparsity", metavar="SHARE", help="The share of the weights that become zero, as 0.8."
    )
    method: str = _option(
        "--method",
        default="magnitude",
        metavar="magnitude|layer-magnitude|diagonal-fisher|block-fisher",
        help="The smallest of all tensors together, or of each by itself; or those that cost least "
        "by the gradients on --data, blocks with an update of the others (WoodFisher).",
    )
    renormalize: str | None = _option(
        "--renormalize",
        metavar="reset|repair|rescale|reshift",
        help="Then correct its statistics by those of the dense model, see `rebasin renormalize`.",
    )
    pattern: str | None = _option(
        "--pattern",
        metavar="N:M",
        help="In place of a share: of every M neighbours along the inputs at most N stay, as 2:4.",
    )
    block_size: int | None = _option(
        "--block-size",
        metavar="N",
        min=1,
        help="Weights of a row that are judged and updated together by block-fisher. Default: 64.",
    )
    damping: float | None = _option(
        "--damping",
        metavar="SHARE",
        help="Lambda of block-fisher, as a share of the mean of the diagonal. Default: 1.",
    )
    selection: Selection = options_of(Selection, "only", "skip", *READING, "only_part")
    output: Output = options_of(Output, "out", *FORMING)
    computing: Computing = options_of(Computing, "device", "max_memory", "seed")
    display: Display = options_of(Display, *SHOWING)
    tracing: Tracing = options_of(Tracing, "target", "arguments")
    data: Data = options_of(Data, *RUNNING)


FIRST = (
    *("sparsity", "pattern", "method", "block_size", "damping", "renormalize", "out"),
    *("only", "skip", "device", "max_memory", "seed"),
)


@with_options("model", *FIRST)
def prune(request: PruneRequest) -> Work:
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
    from rebasin_cli.commands.prune.plan import plan_prune
    from rebasin_cli.commands.prune.report import PRESENTERS
    from rebasin_cli.commands.prune.run import run_prune

    plan = tracing_plan(plan_prune, request, data=request.data.own)
    return Work("prune", request.display, plan, run_prune, PRESENTERS)
