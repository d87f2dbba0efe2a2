"""The end of a run over the zoo: counts, failures, and what does not move and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median, quantiles

from tests.benchmarks.bed.tables import Row, table
from tests.benchmarks.zoo.architectures import LIBRARIES
from tests.benchmarks.zoo.verdict import ENOUGH, FLOAT64, Verdict

HEADS = ("", "tried", "finished", "validated", "below 1e-9", f"share {ENOUGH}", "rotates",
         "wrongly", "median s", "p90 s", "median MB", "p90 MB")  # fmt: skip
SHOWN = 3  # reasons, or modules, of one architecture


def summary(found: Sequence[Verdict]) -> str:
    """Return counts for each library and for all, then failures and low shares."""
    parts = [(name, [one for one in found if one.library == name]) for name in LIBRARIES]
    rows = [_counts(name, part) for name, part in (*parts, ("all", list(found))) if part]
    return "\n".join(["", table(HEADS, rows), *_failures(found), *_low(found), _verdict(found)])


def _verdict(found: Sequence[Verdict]) -> str:
    """Return the claim in numbers."""
    done = [one for one in found if one.finished]
    valid = [one for one in done if one.validated]
    wide = [one for one in valid if one.share >= ENOUGH]
    return (
        f"\n{len(done)} of {len(found)} could be built, fed and traced; {_part(valid, done)} of "
        f"those are proved; at least {ENOUGH} of the elements move in {_part(wide, valid)} of these"
    )


def _part(some: Sequence[Verdict], all_: Sequence[Verdict]) -> str:
    return f"{len(some)} ({len(some) / max(1, len(all_)):.1%})"


def _counts(name: str, part: Sequence[Verdict]) -> Row:
    done = [one for one in part if one.finished]
    valid = [one for one in done if one.validated]
    exact = sum(one.moved < FLOAT64 for one in valid)
    wide = sum(one.share >= ENOUGH for one in valid)
    wrong = sum(one.wrong for one in valid)
    rotates = sum(one.rotates for one in valid)
    counts = (len(part), len(done), len(valid), exact, wide, rotates, wrong)
    spent = [f"{value:.1f}" for value in _spread([one.seconds for one in done])]
    peaks = [f"{value / 1e6:.0f}" for value in _spread([one.peak for one in done])]
    return (name, *map(str, counts), *spent, *peaks)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return median and 90th percentile."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    return median(values), quantiles(values, n=10, method="inclusive")[-1]


def _failures(found: Sequence[Verdict]) -> Iterator[str]:
    """Yield the architectures that were not traced, not validated, or lost groups in the proof."""
    yield "\nNot traced, refuted, or validated wrongly:"
    for one in found:
        if not one.finished:
            yield f"  {one.architecture}: {one.failure}"
        elif not one.validated or one.wrong or one.refuted:
            groups = ", ".join(one.refuted) or "none"
            yield (
                f"  {one.architecture}: moved {one.moved:.0e}, twin {one.twin:.0e}, "
                f"refuted groups: {groups}"
            )


def _low(found: Sequence[Verdict]) -> Iterator[str]:
    """Yield the architectures of which more than a percent stays, with the reasons."""
    yield f"\nShare below {ENOUGH}:"
    for one in sorted(found, key=lambda one: one.share):
        if one.validated and one.share < ENOUGH:
            reasons = list(one.lost.items())[:SHOWN]
            shown = "; ".join(f"{part:.3f} {reason}" for reason, part in reasons)
            yield f"  {one.architecture}: {one.share:.4f}; {shown}{_unread(one)}"


def _unread(one: Verdict) -> str:
    """Return the modules of the parameters that no output depends on."""
    modules = list(dict.fromkeys(name.rpartition(".")[0].split(".layer")[0] for name in one.unused))
    more = f" and {len(modules) - SHOWN} more" if len(modules) > SHOWN else ""
    return f" [unused: {', '.join(modules[:SHOWN])}{more}]" if modules else ""
