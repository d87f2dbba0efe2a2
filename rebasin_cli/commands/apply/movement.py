"""What a saved file does to a model: put its units in another order, or fold and rotate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rebasin_cli.alignment.function_check import FunctionCheck
from rebasin_cli.alignment.functions import FunctionDifference, check_function
from rebasin_cli.files.provenance import folded_facts
from rebasin_cli.folding.folded_models import measure_function
from rebasin_cli.folding.tied_heads import Heads
from rebasin_cli.permutation import Permutations
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.symmetry.maps import Carried, GroupMaps
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import Derived, TensorSource
from rebasin_cli.tensors.blocks import BoundTensor


class Movement(Protocol):
    """What is done to a model, or to a part beside its weights, with the same tensors."""

    @property
    def word(self) -> str:
        """What the result is called."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What provenance says of the result."""

    @property
    def groups(self) -> Sequence[str]:
        """The groups that may move."""

    @property
    def moved(self) -> int:
        """How many groups do."""

    @property
    def tensors(self) -> Sequence[BoundTensor]:
        """The tensors that it is about."""

    def apply(self, source: TensorSource) -> TensorSource:
        """Return the model, moved as it is read."""

    def check(
        self, check: FunctionCheck | None, model: TensorSource, where: Path
    ) -> FunctionDifference | None:
        """Return how far outputs move, if a model is at hand. Raises PermutationError."""


@dataclass(frozen=True)
class Reordering:
    """Permutations: exact."""

    bound: BoundSpec
    permutations: Permutations
    word: str = "permuted"

    @property
    def facts(self) -> Mapping[str, Any]:
        return {}

    @property
    def groups(self) -> Sequence[str]:
        return [name for name, group in self.bound.groups.items() if not group.fixed]

    @property
    def moved(self) -> int:
        return sum(p.moved > 0 for p in self.permutations.values())

    @property
    def tensors(self) -> Sequence[BoundTensor]:
        return self.bound.tensors

    def apply(self, source: TensorSource) -> TensorSource:
        return Permuted(source, self.bound.tensors, self.permutations)

    def check(
        self, check: FunctionCheck | None, model: TensorSource, where: Path
    ) -> FunctionDifference | None:
        return check_function(check, model, self.apply(model), where=str(where))


@dataclass(frozen=True)
class Rotation:
    """Norms folded, then orthogonal maps, in float64: exact but for the rounding of the result.

    heads: that are tensors of their own, which were the embedding.
    """

    folding: FoldPlan
    maps: GroupMaps
    heads: Heads
    word: str = "rotated"

    @property
    def facts(self) -> Mapping[str, Any]:
        return folded_facts(self.heads)

    @property
    def groups(self) -> Sequence[str]:
        return [*self.maps.permutations, *self.maps.linear]

    @property
    def moved(self) -> int:
        orders = sum(p.moved > 0 for p in self.maps.permutations.values())
        return orders + len(self.maps.linear)

    @property
    def tensors(self) -> Sequence[BoundTensor]:
        return self.folding.bound.tensors

    def apply(self, source: TensorSource) -> TensorSource:
        folded = FoldedNorms(source, self.folding)
        return Carried(folded, self.folding.moving.tensors, self.maps)

    def check(
        self, check: FunctionCheck | None, model: TensorSource, where: Path
    ) -> FunctionDifference | None:
        tied = FoldedNorms(model, self.folding).tied_error()
        return measure_function(check, model, self.apply(model), tied, where)


@dataclass(frozen=True, kw_only=True)
class FactorRotation(Rotation):
    """The same for factors that belong to the weights of a model.

    base: the model, whose gains are folded. folding: of its norms, the factors among their readers.
    """

    base: TensorSource
    factors: Sequence[BoundTensor]

    @property
    def tensors(self) -> Sequence[BoundTensor]:
        return self.factors

    def apply(self, source: TensorSource) -> TensorSource:
        folded = FoldedNorms(_Beside(source, self.base), self.folding)
        return Carried(folded, self.factors, self.maps)


class _Beside(Derived):
    """A source in which the tensors of another can be loaded too."""

    def __init__(self, source: TensorSource, other: TensorSource) -> None:
        super().__init__(source)
        self._other, self._own = other, frozenset(source.names())

    def load(self, name: str) -> Tensor:
        return super().load(name) if name in self._own else self._other.load(name)
