"""The command `rebasin fold`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, offer, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.symmetry_option import tie_option
from rebasin_cli.options.tracing import Tracing, planned_by
from rebasin_cli.presentation.work import Work


@with_options("model", "out", "tie", "spec", "sizes")
def fold(
    model: Annotated[Path, argument("MODEL")],
    tie: Annotated[str, tie_option(None)] = "auto",
    *,
    selection: Annotated[Selection, offer("spec", "sizes", "pass_through", *READING, "only_part")],
    output: Annotated[Output, offer("out", *FORMING)],
    computing: Annotated[Computing, offer("check")],
    display: Annotated[Display, offer(*SHOWING)],
    tracing: Tracing,
) -> Work:
    """Multiply the gains of norms into the weights that read them. The function stays the same.

    Writes NAME.folded.EXT: the same names and shapes, gains all 1, so that the units of the
    residual stream may be rotated. Models that were rotated (align --symmetry orthogonal) can be
    averaged with folded ones only. Computed in float64. Where the output head is the embedding,
    it stays so if that is nearly right, and outputs change a little: how much is printed. --tie
    untie writes a head of its own instead, and a config.json that says so: nothing changes.

    Examples:

        rebasin fold model.safetensors --spec preln-vit --set heads=4

        rebasin fold llama/ -o llama-folded/

        rebasin fold gpt2/ --tie untie
    """
    from rebasin_cli.commands.fold.plan import FoldRequest, plan_fold
    from rebasin_cli.commands.fold.report import PRESENTERS
    from rebasin_cli.commands.fold.run import run_fold

    request = FoldRequest(
        model=named_path(model),
        tie=tie,
        selection=selection,
        output=output,
        computing=computing,
        tracing=tracing.of(tracing.target),
    )
    return Work("fold", display, planned_by(plan_fold, request), run_fold, PRESENTERS)
