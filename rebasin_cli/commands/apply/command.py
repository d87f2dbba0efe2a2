"""The command `rebasin apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, offer, option, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.options.values import optional_path
from rebasin_cli.presentation.work import Work

Inverse = Annotated[bool, option()("--inverse", help="Undo the permutation, or the maps.")]
Base = Annotated[
    Path | None,
    option()(
        "--base",
        metavar="MODEL",
        help="The model that an adapter or an optimizer belongs to, if the file does not tell; of "
        "statistics, the one that moves, as it was measured.",
    ),
]
KeepUnknown = Annotated[
    bool, option()("--keep-unknown", help="Leave what follows no weight as it is, with a warning.")
]


@with_options("permutation", "model", "inverse", "base", "keep_unknown", "out", "pass_through")
def apply(
    permutation: Annotated[Path, argument("PERM")],
    model: Annotated[Path, argument("MODEL")],
    inverse: Inverse = False,
    base: Base = None,
    keep_unknown: KeepUnknown = False,
    *,
    selection: Annotated[Selection, offer("pass_through", *READING, "only_part")],
    output: Annotated[Output, offer("out", *FORMING)],
    computing: Annotated[Computing, offer("check")],
    display: Annotated[Display, offer(*SHOWING)],
    tracing: Tracing,
) -> Work:
    """Apply saved permutations or maps to a checkpoint with the same tensors, or its adapters.

    For EMA weights, other dtypes and other stages of the model that PERM was found for; for its
    adapters (LoRA and kin: a PEFT folder, files of diffusers and kohya); in a .pt, for states of
    optimizers; for what `rebasin statistics` measured. A permutation is exact: NAME.permuted.EXT,
    and --inverse gives back the same bytes.
    The maps of --symmetry orthogonal fold the norms (see rebasin fold) and rotate the units, in
    float64: NAME.rotated.EXT, right to the rounding of its dtype; --inverse turns it back, still
    folded. With --model the result is run before it is written: its outputs must not move.

    Examples:

        rebasin align a.pt b.pt --save-permutation b.perm.safetensors

        rebasin apply b.perm.safetensors b-ema.pt

        rebasin apply b.perm.safetensors b-ema.permuted.pt --inverse -o back.pt

        rebasin apply gpt.maps.safetensors gpt-ema.safetensors

        rebasin apply b.perm.safetensors lora-of-b/ -o lora-of-aligned-b

        rebasin apply b.perm.safetensors a.statistics.safetensors --base b.pt
    """
    from rebasin_cli.commands.apply.plan import plan_apply
    from rebasin_cli.commands.apply.report import PRESENTERS
    from rebasin_cli.commands.apply.request import ApplyRequest
    from rebasin_cli.commands.apply.run import run_apply

    request = ApplyRequest(
        permutation=named_path(permutation),
        model=named_path(model),
        inverse=inverse,
        base=optional_path(base),
        keep_unknown=keep_unknown,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target),
    )
    return Work("apply", display, planned_by(plan_apply, request), run_apply, PRESENTERS)
