"""The command `rebasin verify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import MEANS, Computing
from rebasin_cli.options.display import Display
from rebasin_cli.options.output import Output, save_permutation_option
from rebasin_cli.options.parameters import argument, options_of, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.symmetry_option import symmetry_option
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.presentation.presenter import Presenters
from rebasin_cli.presentation.work import Work


@dataclass(frozen=True)
class VerifyRequest:
    """Which models are compared. save: where the permutation goes, if anywhere."""

    a: Path = argument("A", parse=named_path)
    b: Path = argument("B", parse=named_path)
    save: str | None = save_permutation_option()
    symmetry: str = symmetry_option(
        "Both are folded (see rebasin fold), and compared to the rounding of their dtype."
    )
    selection: Selection = options_of(Selection, *ALIGNING)
    output: Output = options_of(Output, "force")
    computing: Computing = options_of(Computing, *MEANS)
    display: Display = options_of(Display)
    tracing: Tracing = options_of(Tracing)
    search: Search = options_of(Search)


@with_options("a", "b", "save", "force", "verbose", "symmetry")
def verify(request: VerifyRequest) -> Work:
    """Is B exactly A with its units reordered? Exit code 0: yes, 1: no.

    The permutation is searched for under the spec and proved by comparing every tensor, bit
    by bit. If there is none, says how far the best one found is off. With --model both are also
    run on random inputs, and the answer is whether they are the same function. With --symmetry
    orthogonal: is B a rotated copy of A, to the rounding of its dtype?

    Examples:

        rebasin verify a.safetensors b.safetensors

        rebasin verify a.pt b.pt --save-permutation b.perm.safetensors

        rebasin verify a.pt b.pt --model net.py:Net --input-shape 1,3,32,32

        rebasin verify gpt/ rotated/ --symmetry orthogonal
    """
    plan, run, presenters = _way(request.symmetry)
    return Work("verify", request.display, tracing_plan(plan, request), run, presenters)


def _way(symmetry: str) -> tuple[Any, Any, Presenters]:
    """Return what plans, runs and shows the question that was asked."""
    from rebasin_cli.folding.rotation_problem import rotates

    if rotates(symmetry):
        from rebasin_cli.commands.verify import rotated_copy as way

        return way.plan_verify_rotation, way.run_verify_rotation, way.PRESENTERS
    from rebasin_cli.commands.verify.plan import plan_verify
    from rebasin_cli.commands.verify.report import PRESENTERS
    from rebasin_cli.commands.verify.run import run_verify

    return plan_verify, run_verify, PRESENTERS
