"""The command `rebasin diff`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import Display
from rebasin_cli.options.parameters import argument, options_of, with_options
from rebasin_cli.options.search import Search
from rebasin_cli.options.selection import ALIGNING, Selection
from rebasin_cli.options.symmetry_option import symmetry_option
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.presentation.work import Work

GROUPS = "Also compare group by group, under this spec."
FIRST = ("spec", "sizes", "strict", "only", "skip", "pass_through", "device", "max_memory")


@dataclass(frozen=True)
class DiffRequest:
    """Which models are compared, and under which spec, if any.

    symmetry: orthogonal ones bring B into A's frame first.
    """

    a: Path = argument("A", parse=named_path)
    b: Path = argument("B", parse=named_path)
    symmetry: str = symmetry_option(
        "B is aligned to A first, and both are folded (see rebasin fold)."
    )
    selection: Selection = options_of(Selection, *ALIGNING, spec=GROUPS)
    computing: Computing = options_of(Computing, "device", "max_memory")
    display: Display = options_of(Display)
    tracing: Tracing = options_of(Tracing)
    search: Search = Search()


@with_options("a", "b", *FIRST, "verbose", "symmetry")
def diff(request: DiffRequest) -> Work:
    """Compare two checkpoints tensor by tensor. Exit code 0: equal, 1: they differ.

    Prints names, shapes and dtypes that differ, and |A - B| beside |A| for each tensor. With
    --spec or --model also a table of groups as they are, without a matching: how alike their units
    are, and what that means. -v: also how sure it is that each unit's partner is the right one.
    With --symmetry orthogonal in one frame: what differs by more than rounding once both are folded
    and B is rotated next to A.

    Examples:

        rebasin diff a.pt b.safetensors

        rebasin diff a.pt b.pt --only 'layer4.*' --json

        rebasin diff a.safetensors b.aligned.safetensors --spec mlp -v

        rebasin diff gpt/ gpt-tuned/ --symmetry orthogonal
    """
    from rebasin_cli.commands.diff.plan import plan_diff
    from rebasin_cli.commands.diff.report import PRESENTERS
    from rebasin_cli.commands.diff.run import run_diff

    return Work("diff", request.display, tracing_plan(plan_diff, request), run_diff, PRESENTERS)
