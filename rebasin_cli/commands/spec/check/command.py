"""The command `rebasin spec check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.options.display import Display
from rebasin_cli.options.parameters import argument, options_of, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.values import optional_path
from rebasin_cli.presentation.work import Work


@dataclass(frozen=True)
class CheckRequest:
    """Which spec is checked, and against which model, if any."""

    spec: str = argument("NAME|FILE")
    model: Path | None = argument("MODEL", default=None, parse=optional_path)
    selection: Selection = options_of(Selection, "sizes", "strict", "pass_through", *READING)
    display: Display = options_of(Display, "json", "quiet")


@with_options("spec", "model", "sizes", "strict", "pass_through", "json", "quiet")
def check(request: CheckRequest) -> Work:
    """Check a spec by itself, or against the headers of MODEL. Exit code 0: valid, 1: not.

    With MODEL prints a line for each group: name, size, and the tensors it moves. All
    problems are reported at once, as file:line:column.

    Examples:

        rebasin spec check my.yaml

        rebasin spec check my.yaml model.safetensors --set heads=12
    """
    from rebasin_cli.commands.spec.check.plan import plan_check
    from rebasin_cli.commands.spec.check.report import PRESENTERS
    from rebasin_cli.commands.spec.check.run import run_check

    return Work("spec check", request.display, lambda _: plan_check(request), run_check, PRESENTERS)
