"""Which spec describes some checkpoints: the one asked for, a model's, or the one that fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import RebasinError, SpecError, UsageError
from rebasin_cli.files.configs import check_sizes
from rebasin_cli.files.headers import Headers, headers_of
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.outline import idle_patterns, outlines
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.language.pattern import compile_pattern
from rebasin_cli.spec.library import bundled_names, load_spec
from rebasin_cli.spec_choice.bundled import NoFitError, bound_to, only_fit
from rebasin_cli.spec_choice.heads import returned_roots
from rebasin_cli.spec_choice.traced_fit import Fitted, bound_model, target_of_config
from rebasin_cli.spec_choice.unnamed import check_passed, check_unnamed, touched_groups
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.wording import listing


@dataclass(frozen=True)
class GivenSpec:
    """A spec that is used if none is named. complete: see `Choice`."""

    name: str
    spec: Spec
    complete: bool = False


@dataclass(frozen=True)
class Choice:
    """A spec bound to the tensors of all models, its name, and whether it was chosen automatically.

    held: roots of the families that stay in place: a tensor that holds their units, or could hold
    them, is left out or is not in all models. alike: bundled specs that would have done as well,
    since they allow the same permutations. traced: the model that the user named, if the spec is
    that of a model. complete: what it does not name does not matter: it is that of a traced model.
    """

    name: str
    bound: BoundSpec
    automatic: bool
    held: frozenset[str] = frozenset()
    alike: tuple[str, ...] = ()
    traced: Fitted | None = None
    complete: bool = False

    @property
    def movable(self) -> frozenset[str]:
        """The roots of the families that move."""
        return self.roots - self.held

    @property
    def roots(self) -> frozenset[str]:
        """The roots of all families in which a group can move."""
        return frozenset(g.root for g in self.bound.groups.values() if not g.fixed)

    @property
    def whole(self) -> bool:
        """Whether everything may move: only then an aligned model lies in the basin."""
        return self.movable == self.roots


def choose_spec(
    models: Sequence[Checkpoint],
    selection: Selection = Selection(),
    *,
    tracing: Tracing = Tracing(),
    given: GivenSpec | None = None,
    rotated: bool = False,
) -> Choice:
    """Return the spec for all models of a command. given: where it comes from if none is named.

    rotated: where the bundled spec does not say what rotates in their `model_type`, config.json
    does, if its model can be traced.
    Raises SpecError if the named spec does not fit or leaves a tensor unnamed that may matter
    (with --strict: any), UsageError if none is named and no bundled spec fits, or several that
    differ, and no config.json says what the model is.
    """
    headers = headers_of(models)
    choice = _chosen(headers, selection, tracing, given, rotated=rotated)
    check_sizes(choice.bound.spec, models)
    choice = replace(choice, bound=_voting(choice.bound, headers, selection))
    if selection.strict and choice.bound.untouched:
        raise SpecError(
            f"spec {choice.name!r} does not mention {len(choice.bound.untouched)} tensors",
            where=headers.where,
            detail="\n".join(choice.bound.untouched[:10]),
            hint="list them with fixed axes [~], or leave out --strict",
        )
    if not choice.complete:
        check_unnamed(choice.name, choice.bound, headers, selection)
    held = held_roots(choice.bound, headers, selection)
    choice = replace(choice, held=held | returned_roots(choice.bound, headers, models))
    check_passed(choice.bound, headers, selection, choice.movable)
    return choice


def tensors_cut_for(
    choice: Choice, model: Checkpoint, reference: Checkpoint, selection: Selection
) -> tuple[BoundTensor, ...]:
    """Return the tensors of a spec as they are cut in a model whose shapes are not the first's."""
    return bound_to(choice.bound.spec, headers_of([model, reference]), selection).tensors


def held_roots(bound: BoundSpec, headers: Headers, selection: Selection) -> frozenset[str]:
    """Return the roots of the families that have to stay in place.

    What is left out, or missing in one of the models, keeps its order: so do the units in it, in
    every model. Of a tensor that the spec does not name, those that it could hold. A running
    average holds none: it follows its tensor, whether or not it takes part.
    """

    def out(name: str) -> bool:
        if name in headers.averages:
            return False
        return name in headers.partial or not selection.selects(name)

    named = (t.groups for t in bound.tensors if any(map(out, t.members)))
    others = (touched_groups(bound, headers.infos[name]) for name in filter(out, bound.untouched))
    return _free_roots(bound, (group for groups in (*named, *others) for group in groups))


def _free_roots(bound: BoundSpec, names: Iterable[str]) -> frozenset[str]:
    """Return the roots of groups, of those alone that are not fixed."""
    groups = (bound.groups[name] for name in names)
    return frozenset(group.root for group in groups if not group.fixed)


def _bound_as_named(name: str, headers: Headers, selection: Selection) -> BoundSpec:
    """Return a spec bound; raise one SpecError, not one a pattern, if a bundled one is of another.

    In a file of the user's the names themselves may be what is wrong, each in its line.
    """
    spec = load_spec(name)
    try:
        return bound_to(spec, headers, selection)
    except SpecError as error:
        idle = set(idle_patterns(spec, outlines(headers.infos, headers.ties)))
        needed = {text for text in spec.tensors if not compile_pattern(text).optional}
        if name not in bundled_names() or not needed <= idle:
            raise
        raise SpecError(
            f"spec {name!r} names no tensor of this model",
            where=headers.where,
            detail=f"it has {listing(list(headers.infos))}",
            hint="`rebasin inspect MODEL` tells which bundled spec fits; `rebasin spec init MODEL` "
            "starts one of your own",
        ) from error


def _chosen(
    headers: Headers,
    selection: Selection,
    tracing: Tracing,
    given: GivenSpec | None,
    *,
    rotated: bool,
) -> Choice:
    target = tracing.target
    if selection.spec is not None and target is not None:
        raise UsageError("--spec and --model exclude each other")
    if selection.spec is not None:
        bound = _bound_as_named(selection.spec, headers, selection)
        return Choice(selection.spec, bound, automatic=False)
    if target is not None:
        bound, found = bound_model(headers, selection, tracing)
        name = f"traced from {target}{found.layout.note}"
        return Choice(name, bound, automatic=False, traced=found, complete=True)
    if given is not None:
        bound = bound_to(given.spec, headers, selection)
        return Choice(given.name, bound, automatic=False, complete=given.complete)
    try:
        fit = only_fit(headers, selection)
    except NoFitError as error:
        return _traced_config(headers, selection, tracing, error)
    if rotated and not fit.bound.spec.maps_hold(headers.config.get("model_type")):
        with suppress(RebasinError):
            return _traced_config(headers, selection, tracing, NoFitError(fit.name))
    return Choice(fit.name, fit.bound, automatic=True, alike=fit.alike)


def _traced_config(
    headers: Headers, selection: Selection, tracing: Tracing, error: NoFitError
) -> Choice:
    """Return the spec traced from a config.json; both problems are told if that fails."""
    tracing, architecture = target_of_config(headers, tracing, error)
    try:
        bound, found = bound_model(headers, selection, tracing)
    except RebasinError as other:
        raise NoFitError(*error.problems, *other.problems) from other
    name = f"traced from config.json: {architecture}{found.layout.note}"
    return Choice(name, bound, automatic=True, traced=found, complete=True)


def _voting(bound: BoundSpec, headers: Headers, selection: Selection) -> BoundSpec:
    """Return the bound spec with votes for the tensors that take part and that all models have."""

    def votes(name: str) -> bool:
        return selection.selects(name) and name in headers.everywhere

    tensors = tuple(
        replace(tensor, votes=tensor.votes and all(map(votes, tensor.members)))
        for tensor in bound.tensors
    )
    out = frozenset(name for name in bound.untouched if not votes(name))
    return replace(bound, tensors=tensors, buffers=bound.buffers | out)
