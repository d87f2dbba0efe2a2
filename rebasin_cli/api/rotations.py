"""Models aligned by orthogonal maps, which permutations are a special case of: fold, rotate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, overload

from torch import Tensor

from rebasin_cli.alignment.problem import MatchingProblem
from rebasin_cli.api.keywords import Groups, groups_of
from rebasin_cli.api.running import library_verb, model_list
from rebasin_cli.api.specs import NetworkLike, SpecLike, SpecSource, matching_problem
from rebasin_cli.api.tensors_in import Model, ModelInMemory, OutputForm, in_given_form, open_all
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import UsageError
from rebasin_cli.files.part_sources import part_of
from rebasin_cli.files.provenance import folded_basin, is_folded, provenance
from rebasin_cli.folding.folded_models import check_foldable, check_tied, folded_parts, plan_folding
from rebasin_cli.folding.rotated_models import RotatedModels, rotate_models
from rebasin_cli.folding.rotation_problem import METHODS, ORTHOGONAL, rotation_of
from rebasin_cli.progress import silent
from rebasin_cli.symmetry.norm_folding import FoldedNorms
from rebasin_cli.tensors import TensorSource

if TYPE_CHECKING:
    from os import PathLike

    from typing_extensions import Unpack

    from rebasin_cli.api.keywords import Options
    from rebasin_cli.api.specs import MatchOptions


@overload
def fold(a: ModelInMemory, **options: Unpack[MatchOptions]) -> dict[str, Tensor]: ...


@overload
def fold(a: TensorSource | str | PathLike[str], **options: Unpack[MatchOptions]) -> Checkpoint: ...


@library_verb
def fold(
    a: Model,
    *,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> dict[str, Tensor] | Checkpoint:
    """Return a model whose norms have gain 1: gains are multiplied into the weights behind them.

    Names, shapes and the function stay the same, except that an output head that is tied to the
    embedding changes a little. A model whose metadata say that it is folded is returned unchanged.
    The arguments are those of `match`. A state dict or a module gives a state dict; anything else
    gives a checkpoint that is computed as it is read. Raises UsageError for a spec that does not
    say how any norm folds, PermutationError for a head that cannot stay tied, and what `match`
    raises. The command is `rebasin fold`.
    """
    groups = groups_of(SpecSource(spec).named, options)
    (held,) = open_all([a], groups.selection, label="the model")
    source = SpecSource(spec, model, inputs)
    found = matching_problem([held], [a], source, groups, done="multiplied", rotated=True)
    (seen,), choice = found.models, found.choice
    folding = plan_folding(choice, [seen])
    check_foldable(folding, choice.name)
    folded: TensorSource = seen if is_folded(seen) else FoldedNorms(seen, folding)
    if isinstance(folded, FoldedNorms):
        check_tied(folded, seen)
    basin = folded_basin(seen)
    facts = partial(provenance, "fold", [seen], basin=basin, spec=choice.name, folded=True)
    return in_given_form(
        [a], folded, OutputForm([seen], facts, groups.selection, folded_parts(seen, folding))
    )


@overload
def rotate(
    models: Iterable[ModelInMemory], *, ref: int = 0, **options: Unpack[MatchOptions]
) -> list[dict[str, Tensor]]: ...


@overload
def rotate(
    models: Iterable[Model], *, ref: int = 0, **options: Unpack[MatchOptions]
) -> list[dict[str, Tensor] | Checkpoint]: ...


@library_verb
def rotate(
    models: Iterable[Model],
    *,
    ref: int = 0,
    spec: SpecLike = None,
    model: NetworkLike | None = None,
    inputs: object = None,
    **options: Unpack[Options],
) -> Sequence[dict[str, Tensor] | Checkpoint]:
    """Return models that can be averaged: all are folded, and aligned to one of them.

    They are aligned by the orthogonal maps that their spec allows, as by `rebasin align --symmetry
    orthogonal` (arXiv 2506.22712); each keeps its function. Average or interpolate the results with
    `merge(..., strategy="none")` and `lerp`.
    ref: the number, from 0, of the model that the others are aligned to. The other arguments are
    those of `match`; the results come in the order of the models, in the form that `fold` returns.
    Raises UsageError for a spec that allows permutations alone and for another method than
    `weights`, MachineError if two models do not fit into memory, and what `fold` raises.
    """
    models = model_list(models)
    if not 0 <= ref < len(models):
        raise UsageError(f"ref {ref}: there are {len(models)} models, the first is 0")
    groups = groups_of(SpecSource(spec).named, options)
    if groups.search.method not in METHODS:
        raise UsageError(
            f"models are rotated by their weights, not method {groups.search.method!r}"
        )
    held = open_all(models, groups.selection)
    source = SpecSource(spec, model, inputs)
    found = matching_problem(held, models, source, groups, done="rotated", rotated=True)
    matched = MatchingProblem(found.models, found.machine, found.choice)
    rotated = rotate_models(rotation_of(matched), found.models, silent, reference=ref)
    forms = _RotatedForms(rotated, ref, groups)
    return [forms.of(models[number], number) for number in range(len(models))]


class _RotatedForms:
    """Models that were rotated, in the forms that they were given in."""

    def __init__(self, rotated: RotatedModels, ref: int, groups: Groups) -> None:
        self._rotated, self._groups = rotated, groups
        self._models, self._choice = rotated.problem.models, rotated.problem.choice
        self._basin = folded_basin(self._models[ref])

    def of(self, given: Model, number: int) -> dict[str, Tensor] | Checkpoint:
        """Return one of them."""
        seen = self._models[number]

        def part(key: str) -> TensorSource:
            beside = part_of(seen, key, self._choice.bound.tensors)
            return self._rotated.moved_one(number, beside)

        facts = partial(
            provenance,
            "align",
            [seen],
            basin=self._basin,
            spec=self._choice.name,
            folded=True,
            symmetry=ORTHOGONAL,
        )
        form = OutputForm([seen], facts, self._groups.selection, part)
        return in_given_form([given], self._rotated.moved_one(number, seen), form)
