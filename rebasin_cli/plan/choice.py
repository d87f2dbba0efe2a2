"""Which spec describes a checkpoint: the one asked for, that of a model, or the one that fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.errors import RebasinError, SpecError, UsageError
from rebasin_cli.plan.automatic import NoFitError, bound_to, only_fit
from rebasin_cli.plan.options import Options
from rebasin_cli.plan.statistics_file import Statistics
from rebasin_cli.plan.traced import Fitted, bound_model, configured
from rebasin_cli.spec import BoundSpec, load_spec


@dataclass(frozen=True)
class Choice:
    """A spec bound to a checkpoint, its name, and whether it was chosen automatically.

    alike: bundled specs that would have done as well, since they allow the same permutations.
    traced: the model that the user named, if the spec is that of a model.
    """

    name: str
    bound: BoundSpec
    automatic: bool
    alike: tuple[str, ...] = ()
    traced: Fitted | None = None

    def movable(self, options: Options) -> frozenset[str]:
        """Return the roots of the families that --only and --skip let move.

        They leave in all tensors in which a group of the family occurs that is not fixed.
        """
        groups = self.bound.groups
        held = {
            groups[name].root
            for tensor in self.bound.tensors
            for name in tensor.groups
            if not (groups[name].fixed or all(map(options.selects, tensor.members)))
        }
        return self.roots - held

    @property
    def roots(self) -> frozenset[str]:
        """The roots of all families in which a group can move."""
        return frozenset(g.root for g in self.bound.groups.values() if not g.fixed)

    def whole(self, options: Options) -> bool:
        """Return whether everything may move: only then an aligned model lies in the basin."""
        return self.movable(options) == self.roots


def choose_spec(
    checkpoint: Checkpoint, options: Options, *, given: Statistics | None = None
) -> Choice:
    """Return the spec for a checkpoint. given: where it comes from if the user names none.

    Raises SpecError if the named spec does not fit (or, with --strict, leaves a tensor
    unmentioned), UsageError if none is named and no bundled spec fits, or several that differ, and
    no config.json says what the model is.
    """
    choice = _chosen(checkpoint, options, given)
    choice = replace(choice, bound=_selected(choice.bound, options))
    if options.strict and choice.bound.untouched:
        raise SpecError(
            f"spec {choice.name!r} does not mention {len(choice.bound.untouched)} tensors",
            where=str(checkpoint.path),
            detail="\n".join(choice.bound.untouched[:10]),
            hint="list them with fixed axes [~], or leave out --strict",
        )
    return choice


def _chosen(checkpoint: Checkpoint, options: Options, given: Statistics | None) -> Choice:
    target = options.tracing.target
    if options.spec is not None and target is not None:
        raise UsageError("--spec and --model exclude each other")
    if options.spec is not None:
        bound = bound_to(load_spec(options.spec), checkpoint, options)
        return Choice(options.spec, bound, automatic=False)
    if target is not None:
        bound, found = bound_model(checkpoint, options)
        name = f"traced from {target}{found.layout.note}"
        return Choice(name, bound, automatic=False, traced=found)
    if given is not None:
        bound = bound_to(given.spec, checkpoint, options)
        return Choice(f"of {given.path}", bound, automatic=False)
    try:
        fit = only_fit(checkpoint, options)
    except NoFitError as error:
        return _traced_config(checkpoint, options, error)
    return Choice(fit.name, fit.bound, automatic=True, alike=fit.alike)


def _traced_config(checkpoint: Checkpoint, options: Options, error: NoFitError) -> Choice:
    """Return the spec traced from a config.json; both problems are told if that fails."""
    tracing, architecture = configured(checkpoint, options.tracing, error)
    try:
        bound, found = bound_model(checkpoint, replace(options, tracing=tracing))
    except RebasinError as other:
        raise NoFitError(*error.problems, *other.problems) from other
    return Choice(
        f"traced from config.json: {architecture}{found.layout.note}", bound, automatic=True
    )


def _selected(bound: BoundSpec, options: Options) -> BoundSpec:
    """Return the bound spec with votes for the tensors that --only and --skip leave in."""
    tensors = tuple(
        replace(tensor, votes=tensor.votes and all(map(options.selects, tensor.members)))
        for tensor in bound.tensors
    )
    out = frozenset(name for name in bound.untouched if not options.selects(name))
    return replace(bound, tensors=tensors, buffers=bound.buffers | out)
