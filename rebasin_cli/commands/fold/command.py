"""The command `rebasin fold`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.checkpoint.remote.remote_path import named_path
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.display import SHOWING, Display
from rebasin_cli.options.output import FORMING, Output
from rebasin_cli.options.parameters import argument, options_of, with_options
from rebasin_cli.options.selection import READING, Selection
from rebasin_cli.options.symmetry_option import tie_option
from rebasin_cli.options.tracing import Tracing, tracing_plan
from rebasin_cli.presentation.work import Work


@dataclass(frozen=True)
class FoldRequest:
    """The model whose norms are to be folded. tie: see `settle_heads`."""

    model: Path = argument("MODEL", parse=named_path)
    tie: str = tie_option(None)
    selection: Selection = options_of(
        Selection, "spec", "sizes", "pass_through", *READING, "only_part"
    )
    output: Output = options_of(Output, "out", *FORMING)
    computing: Computing = options_of(Computing, "check")
    display: Display = options_of(Display, *SHOWING)
    tracing: Tracing = options_of(Tracing)


@with_options("model", "out", "tie", "spec", "sizes")
def fold(request: FoldRequest) -> Work:
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
    from rebasin_cli.commands.fold.plan import plan_fold
    from rebasin_cli.commands.fold.report import PRESENTERS
    from rebasin_cli.commands.fold.run import run_fold

    return Work("fold", request.display, tracing_plan(plan_fold, request), run_fold, PRESENTERS)
