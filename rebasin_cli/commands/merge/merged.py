"""What merging came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebasin_cli.alignment.functions import FunctionDifference
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.commands.merge.least_squares.normal_equations import LayerFit
from rebasin_cli.matching.problem.result import Change
from rebasin_cli.network.scoring.ensemble import Ensemble
from rebasin_cli.renormalization.corrected import CorrectionReport


@dataclass(frozen=True)
class Merged:
    """Models that were averaged, or put together otherwise.

    combination: how, as JSON values, see `MixedModels`. objective: sum over pairs, before and after
    alignment. aligned: a unit of any of them changed place. torn: see `Alignment`. preserved: what
    stays apart of them, if anything does.
    parents: where the models went, in one order of units.
    report: how its statistics were corrected, if they were; stale: it has BatchNorm, and they were
    not. function: the farthest of the outputs of a permuted model from its own, if they were run.
    """

    models: tuple[Path, ...]
    weights: tuple[float, ...]
    combination: Mapping[str, Any]
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
    report: CorrectionReport | None = None
    stale: bool = False
    preserved: Preserved | None = None
    zipped: Zipped | None = None
    solved: Solved | None = None
    function: FunctionDifference | None = None
    parents: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ModelSize:
    """How large a model is. flops: operations of a pass with one input, products counted twice."""

    parameters: int
    flops: int


@dataclass(frozen=True)
class BesideEnsemble:
    """The scores of a merged model, of its parents, and of their ensemble."""

    merged: Mapping[str, float]
    models: tuple[Mapping[str, float], ...]
    ensemble: Ensemble


@dataclass(frozen=True)
class Preserved:
    """The first layers of models whose other layers are one.

    module: the file that runs the result. kept, layers: how many layers hold weights, and how many
    of these are apart. size, single: of the result, of one of the models. cost: operations of a
    pass over those of one model. difference: of outputs, relative, when all parents are the same
    model, which the result has to compute then. judged: what data say of it, if there are any.
    """

    module: Path
    join: str
    kept: tuple[str, ...]
    layers: int
    size: ModelSize
    single: ModelSize
    cost: float
    difference: float
    judged: BesideEnsemble | None = None


@dataclass(frozen=True)
class Zipped:
    """Groups that were merged by linear maps, and the others, with the reason of each.

    method: a key of LINEAR. samples: that the maps of each group are drawn from. inside: units
    that share their place with another of their own model. maps: the file that has them. size: of
    the result, and of each of the models.
    """

    method: str
    groups: tuple[str, ...]
    units: int
    inside: int
    samples: Mapping[str, int]
    others: Mapping[str, str]
    maps: Path | None
    size: ModelSize


@dataclass(frozen=True)
class Solved:
    """Layers whose weights were found by least squares; of the others, the reason of each.

    width: that was asked for. wider: groups with more units than one model has, before and after.
    narrow: groups that could not become wider, and why; empty if none had to. parameters, single:
    of the result, of one of the models. difference: of outputs, relative, when both parents are the
    same model, which a wider result has to compute then.
    """

    layers: Mapping[str, LayerFit]
    others: Mapping[str, str]
    width: float
    wider: Mapping[str, tuple[int, int]]
    narrow: Mapping[str, str]
    parameters: int
    single: int
    difference: float | None
