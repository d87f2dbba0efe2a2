"""Carrying out `rebasin widen`: prove it, then write it tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.alignment.results import write_result
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.widen.plan import WidenPlan
from rebasin_cli.files.provenance import provenance
from rebasin_cli.files.write import Result
from rebasin_cli.presentation.outcomes import LeftAsIs
from rebasin_cli.progress import Progress
from rebasin_cli.widening.growth import Growth
from rebasin_cli.widening.wider_proof import prove_widening


@dataclass(frozen=True)
class Widened:
    """A model with more units. settings: what its config.json says otherwise.

    parameters: before and after. function: how far outputs are from those before, if it was run.
    rounded: whether scaled values were stored in few digits.
    """

    model: Path
    spec: str
    growth: Growth
    settings: dict[str, object]
    parameters: tuple[int, int]
    written: Written
    function: FunctionDifference | None
    seconds: float
    rounded: bool


def run_widen(plan: WidenPlan, progress: Progress) -> Iterator[LeftAsIs | Widened]:
    """Yield the wider model."""
    if plan.target.place.skip:
        yield LeftAsIs(plan.target.path, "exists")
        return
    began, wide = perf_counter(), plan.wide
    progress("running the model as it is and wider", 0, 0)
    refused = plan.request.computing.check is False
    function = None if refused else prove_widening(plan.check, wide, where=str(wide.path))
    sizes = {name: list(pair) for name, pair in wide.growth.sizes.items()}
    like = plan.like.path.name if plan.like else None
    facts = provenance("widen", [wide], basin=None, spec=plan.spec, groups=sizes, like=like)
    progress(f"writing {plan.target.path.name}", 0, 0)
    written = write_result(
        Result(wide, wide, facts, settings=wide.settings), plan.target, plan.request
    )
    yield Widened(
        model=wide.path,
        spec=plan.spec,
        growth=wide.growth,
        settings=dict(wide.settings),
        parameters=(_count(wide.narrow), _count(wide)),
        written=written,
        function=function,
        seconds=perf_counter() - began,
        rounded=wide.rounds,
    )


def _count(model: Checkpoint) -> int:
    """Return how many real numbers a model holds, those of two names once."""
    names = [name for name in model.names() if name not in model.ties]
    return sum(info.reals for info in map(model.info, names) if info.floating)
