"""What is found out about one architecture, as a line of a file and of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

FLOAT64 = 1e-9  # relative; above it the model itself computes in float32
ACCEPTED = 1e-4  # relative; a wrong axis moves outputs by 1e-3 to 1
ENOUGH = 0.99  # of the elements
HEADS = (
    f"{'architecture':44} {'groups':>6} {'per':>4} {'share':>6} {'moved':>7} {'twin':>7} "
    f"{'CPU s':>6} {'MB':>5} {'refuted':>7} {'unused':>6} stream"
)


@dataclass(frozen=True)
class Verdict:
    """One architecture: what was traced, or why nothing was.

    moved: by how much outputs change, relative to their scale, in the proof that belongs to the
    trace; twin: the same in a check that shares with it neither parameters nor permutations nor
    kernels. lost: reason -> the share of elements that stays because of it. unused: parameters
    that no output depends on. rotates: whether a stream may be rotated, proved; why: if not, what
    holds the group of the most tensors to permutations. seconds: of CPU, on one thread; peak:
    bytes, imports included.
    """

    architecture: str
    failure: str = ""
    groups: int = 0
    per: int = 0
    share: float = 0.0
    moved: float = 0.0
    twin: float = 0.0
    dtype: str = ""
    outputs: tuple[str, ...] = ()
    free: bool = False
    refuted: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    rotates: bool = False
    why: str = ""
    lost: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak: int = 0

    @property
    def library(self) -> str:
        return self.architecture.partition(":")[0]

    @property
    def finished(self) -> bool:
        return not self.failure

    @property
    def validated(self) -> bool:
        return self.finished and self.moved <= ACCEPTED

    @property
    def wrong(self) -> bool:
        """Return whether a trace was accepted that the twin refutes."""
        return self.validated and not self.twin <= ACCEPTED

    @property
    def good(self) -> bool:
        return self.validated and not self.wrong and self.share >= ENOUGH

    @property
    def line(self) -> str:
        """Return the row of the table under `HEADS`."""
        spent = f"{self.seconds:6.1f} {self.peak / 1e6:5.0f}"
        if self.failure:
            return f"{self.architecture:44} {'':>40} {spent} FAILED {self.failure}"
        stream = "rotates" if self.rotates else self.why
        return (
            f"{self.architecture:44} {self.groups:6} {self.per:4} {self.share:6.4f} "
            f"{self.moved:7.0e} {self.twin:7.0e} {spent} {len(self.refuted):7} "
            f"{len(self.unused):6} {stream}{'  WRONG' * self.wrong}"
        )


def parse_verdict(line: str) -> Verdict:
    """Return the verdict of one line of a file."""
    return Verdict(**json.loads(line))


def dump_verdict(verdict: Verdict) -> str:
    """Return a verdict as one line of JSON."""
    return json.dumps(asdict(verdict))


def load_verdicts(path: Path) -> dict[str, Verdict]:
    """Return the verdicts of a file by architecture, the last of each; none if it is absent."""
    return {one.architecture: one for one in _lines(path)} if path.exists() else {}


def _lines(path: Path) -> Iterator[Verdict]:
    for line in path.read_text("utf-8").splitlines():
        if line.endswith("}"):  # an interrupted run may have left half a line
            yield parse_verdict(line)
