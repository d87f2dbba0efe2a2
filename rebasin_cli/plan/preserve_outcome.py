"""What stays apart of models that were merged but for their first layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Preserved:
    """The first layers of models whose other layers are one.

    module: the file that runs the result. kept, layers: how many layers hold weights, and how many
    of these are apart. parameters, single: of the result, of one of the models. cost: operations
    of a pass over those of one model. difference: of outputs, relative, when all parents are the
    same model, which the result has to compute then.
    """

    module: Path
    join: str
    kept: tuple[str, ...]
    layers: int
    parameters: int
    single: int
    cost: float
    difference: float
