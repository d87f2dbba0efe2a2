"""The command `rebasin spec check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.options.display import Display
from rebasin_cli.options.parameters import argument, offer, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.values import optional_path
from rebasin_cli.presentation.work import Work


@with_options("spec", "model", "sizes", "strict", "pass_through", "json", "quiet")
def check(
    spec: Annotated[str, argument("NAME|FILE")],
    model: Annotated[Path | None, argument("MODEL")] = None,
    *,
    selection: Annotated[Selection, offer("sizes", "strict", "pass_through", *READING)],
    display: Annotated[Display, offer("json", "quiet")],
) -> Work:
    """Check a spec by itself, or against the headers of MODEL. Exit code 0: valid, 1: not.

    With MODEL prints a line for each group: name, size, and the tensors it moves. All
    problems are reported at once, as file:line:column.

    Examples:

        rebasin spec check my.yaml

        rebasin spec check my.yaml model.safetensors --set heads=12
    """
    from rebasin_cli.commands.spec.check.plan import CheckRequest, plan_check
    from rebasin_cli.commands.spec.check.report import PRESENTERS
    from rebasin_cli.commands.spec.check.run import run_check

    request = CheckRequest(spec, optional_path(model), selection)
    return Work("spec check", display, lambda told: plan_check(request), run_check, PRESENTERS)
