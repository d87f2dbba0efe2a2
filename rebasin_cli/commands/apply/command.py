"""The command `rebasin apply`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, flag, options_of, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.options.values import optional_path
from rebasin_cli.presentation.work import Work


@dataclass(frozen=True)
class ApplyRequest:
    """What a permutation file is applied to: a model, or what belongs to one.

    base: the model that it belongs to, where the permutation file does not tell. keep_unknown:
    leave what follows nothing that is known.
    """

    permutation: Path = argument("PERM", parse=named_path)
    model: Path = argument("MODEL", parse=named_path)
    inverse: bool = flag("--inverse", default=False, help="Undo the permutation, or the maps.")
    base: Path | None = flag(
        "--base",
        parse=optional_path,
        metavar="MODEL",
        help="The model that an adapter or an optimizer belongs to, if the file does not tell; of "
        "statistics, the one that moves, as it was measured.",
    )
    keep_unknown: bool = flag(
        "--keep-unknown",
        default=False,
        help="Leave what follows no weight as it is, with a warning.",
    )
    selection: Selection = options_of(Selection, "pass_through", *READING, "only_part")
    output: Output = options_of(Output, "out", *FORMING)
    computing: Computing = options_of(Computing, "check")
    display: Display = options_of(Display, *SHOWING)
    tracing: Tracing = options_of(Tracing)


@with_options("permutation", "model", "inverse", "base", "keep_unknown", "out", "pass_through")
def apply(request: ApplyRequest) -> Work:
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
    from rebasin_cli.commands.apply.run import run_apply

    return Work("apply", request.display, tracing_plan(plan_apply, request), run_apply, PRESENTERS)
