"""The command that sets the smallest weights to zero."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rebasin_cli.cli.runner import deliver
from rebasin_cli.options import data as r
from rebasin_cli.options import parameters as o
from rebasin_cli.options import tracing as t
from rebasin_cli.options.chosen import options_from
from rebasin_cli.options.extend import argument, options_in

PANEL = "Pruning"
_option = options_in(PANEL)
Sparsity = Annotated[
    float,
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
        metavar="magnitude|layer-magnitude",
        help="The smallest of all tensors together, or of each tensor by itself.",
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


@r.with_data
@t.with_model
@o.sharing(o.READING, o.WRITING, o.SHOWING)
def prune(
    ctx: typer.Context,
    model: Annotated[Path, argument("MODEL")],
    sparsity: Sparsity,
    how: Method = "magnitude",
    renormalize: Renormalize = None,
    out: o.Out = None,
    only: o.Only = None,
    skip: o.Skip = None,
    device: o.Device = "auto",
    max_memory: o.MaxMemory = None,
    seed: o.Seed = 0,
) -> None:
    """Set the smallest weights of MODEL to zero: exactly the share that is asked for.

    Writes NAME.pruned.EXT. Weights are floating tensors of two or more axes; biases, norms and
    tables of embeddings stay as they are, unless --only names them. Tied tensors are pruned once.
    Safetensors metadata keep the masks. Of MODEL alone nothing is run; --renormalize needs --model
    and --data, and gives the pruned model the statistics of MODEL: zeros stay zeros.

    Examples:

        rebasin prune model.safetensors --sparsity 0.8

        rebasin prune model.pt --sparsity 0.5 --method layer-magnitude --skip 'fc.*'

        rebasin prune model.pt --sparsity 0.8 --renormalize reset --model net.py:Net --data d.py:f
    """
    from rebasin_cli.commands.prune.plan import plan_prune
    from rebasin_cli.commands.prune.run import run_prune

    deliver(
        ctx,
        lambda: plan_prune(
            o.home_path(model),
            options_from(ctx.params),
            sparsity=sparsity,
            method=how,
            renormalize=renormalize,
        ),
        run_prune,
    )


COMMANDS = (prune,)
