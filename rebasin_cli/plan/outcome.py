"""What was done, one frozen value for each kind of result. Reports are made from these alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.checkpoint import Written
from rebasin_cli.errors import RebasinError
from rebasin_cli.evaluate.correcting import Report
from rebasin_cli.matching import Change, Diagnosis, Matching, Measured
from rebasin_cli.plan.anatomy_outcome import Anatomized
from rebasin_cli.plan.barrier_outcome import Contour, Curves, Drawn, Scored
from rebasin_cli.plan.preserve_outcome import Preserved
from rebasin_cli.plan.prune_outcome import Pruned
from rebasin_cli.plan.renormalize_outcome import Renormalized
from rebasin_cli.plan.statistics_outcome import Observed
from rebasin_cli.plan.traced_model import TracedModel
from rebasin_cli.plan.zip_outcome import Zipped
from rebasin_cli.trace import Trace

SAME_FUNCTION = 1e-5  # relative: what float32 inside a model makes of another order of sums


@dataclass(frozen=True)
class Agreement:
    """How far apart the outputs of two checkpoints are, in units of their largest value.

    inputs: on how many random inputs. dtype: in which the model was run.
    """

    difference: float
    inputs: int
    dtype: str

    @property
    def same(self) -> bool:
        return self.difference <= SAME_FUNCTION


@dataclass(frozen=True)
class Kept:
    """A file that was there already: the reference of an alignment, or one of --no-clobber."""

    command: str
    path: Path
    why: str


@dataclass(frozen=True)
class Failed:
    """An item that could not be done; the others go on."""

    command: str
    path: Path
    error: RebasinError


@dataclass(frozen=True)
class Aligned:
    """A model that was moved into the reference's basin; written: None if only for the moment.

    alike: bundled specs beside the chosen one that allow the same permutations. diagnosis: what
    the units say one by one, if that was asked for. function: how far its outputs are from those
    before, if the model was run.
    """

    model: Path
    reference: Path
    spec: str
    matching: Matching
    untouched: int
    written: Written | None
    permutation: Written | None
    seconds: float
    alike: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None
    function: Agreement | None = None


@dataclass(frozen=True)
class Applied:
    """A model to which a permutation file was applied.

    function: how far its outputs are from those before, if a model was named to run them.
    """

    model: Path
    permutation: Path
    inverted: bool
    groups: int
    moved: int
    written: Written
    function: Agreement | None = None


@dataclass(frozen=True)
class Merged:
    """Models that were averaged.

    objective: sum over pairs, before and after alignment. aligned: a unit of any of them changed
    place. torn: see `Alignment`. preserved: what
    stays apart of them, if anything does.
    report: how its statistics were corrected, if they were; stale: it has BatchNorm, and they were
    not. function: the farthest of the outputs of a permuted model from its own, if they were run.
    """

    models: tuple[Path, ...]
    weights: tuple[float, ...]
    reference: Path
    strategy: str
    reason: str
    spec: str | None
    objective: Change | None
    rounds: int
    converged: bool
    written: Written
    seconds: float
    aligned: bool = False
    alike: tuple[str, ...] = ()
    torn: float | None = None
    report: Report | None = None
    stale: bool = False
    preserved: Preserved | None = None
    zipped: Zipped | None = None
    function: Agreement | None = None


@dataclass(frozen=True)
class Interpolated:
    """One point on the line between two models.

    written: None if the file was removed after `--exec`. value: what the command's last line
    of output said (a number or JSON), None without `--exec`.
    """

    alpha: float
    path: Path
    written: Written | None
    executed: bool
    value: Any
    seconds: float


@dataclass(frozen=True)
class Verified:
    """Whether B is A with its units reordered.

    different: names of the tensors that differ even under the best permutation found.
    max_difference: largest |A - permuted B| over the largest |A|, in those tensors.
    function: how far the outputs of the two are apart, if a model was named to run them.
    """

    a: Path
    b: Path
    spec: str
    matching: Matching
    different: tuple[str, ...]
    max_difference: float
    permutation: Written | None
    alike: tuple[str, ...] = ()
    function: Agreement | None = None

    @property
    def exact(self) -> bool:
        return not self.different

    @property
    def holds(self) -> bool:
        """Whether the answer is yes: the same function if a model was run, else the same bits."""
        return self.function.same if self.function else self.exact


@dataclass(frozen=True)
class TensorChange:
    """How one tensor differs between two checkpoints.

    kind: `equal`, `values`, `dtype`, `shape`, `only in A` or `only in B`.
    distance: |A - B|; norm: |A|; max_difference: the largest entry of |A - B|.
    """

    name: str
    kind: str
    detail: str = ""
    distance: float = 0.0
    norm: float = 0.0
    max_difference: float = 0.0


@dataclass(frozen=True)
class Diagnosed:
    """Two checkpoints group by group under a spec, as they are."""

    spec: str
    measured: Measured
    diagnosis: Diagnosis


@dataclass(frozen=True)
class Compared:
    """Two checkpoints tensor by tensor. changes: only those that differ.

    groups: the two group by group, if a spec was named.
    """

    a: Path
    b: Path
    tensors: int
    changes: tuple[TensorChange, ...]
    distance: float
    norm: float
    groups: Diagnosed | None = None


@dataclass(frozen=True)
class Inspected:
    """What is in a checkpoint, from its headers. fits: what each bundled spec says of it."""

    path: Path
    format: str
    files: int
    bytes: int
    tensors: tuple[Mapping[str, Any], ...]
    parameters: int
    dtypes: Mapping[str, int]
    ties: Mapping[str, str]
    metadata: Mapping[str, str]
    fits: Mapping[str, str]


@dataclass(frozen=True)
class GroupSeen:
    """A group of a bound spec and the tensors it occurs in (the first of each stack)."""

    name: str
    size: int
    parents: tuple[str, ...]
    fixed: bool
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """Whether a spec is valid, and fits a model if there is one. error: why not."""

    spec: str
    model: Path | None
    entries: int
    groups: tuple[GroupSeen, ...]
    untouched: tuple[str, ...]
    error: RebasinError | None


@dataclass(frozen=True)
class Traced:
    """The spec of a traced model. text: as YAML, with where it comes from in comments.

    explain: tables are to be shown instead of the text. written: the file it went to, if any.
    """

    target: str
    model: TracedModel
    text: str
    explain: bool
    written: Written | None
    seconds: float

    @property
    def trace(self) -> Trace:
        return self.model.trace


Outcome = (
    Kept
    | Failed
    | Aligned
    | Applied
    | Merged
    | Interpolated
    | Verified
    | Compared
    | Inspected
    | Checked
    | Traced
    | Pruned
    | Renormalized
    | Observed
    | Scored
    | Curves
    | Contour
    | Drawn
    | Anatomized
)
