"""Which spec describes a checkpoint: the one asked for, or the only bundled one that fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.errors import SpecError, UsageError
from rebasin_cli.plan.options import Options
from rebasin_cli.spec import BoundSpec, bind, bundled, load_spec, uncovered
from rebasin_cli.tensors import infos

NEAREST = 5  # specs listed when none fits, those with the fewest problems first


@dataclass(frozen=True)
class Choice:
    """A spec bound to a checkpoint, its name, and whether it was chosen automatically."""

    name: str
    bound: BoundSpec
    automatic: bool

    def movable(self, options: Options) -> frozenset[str]:
        """Return the roots of the families all of whose tensors --only and --skip leave in."""
        held = {
            self.bound.groups[group].root
            for tensor in self.bound.tensors
            for group in tensor.groups
            if not all(options.selects(name) for name in tensor.members)
        }
        return self.roots - held

    @property
    def roots(self) -> frozenset[str]:
        """The roots of all families."""
        return frozenset(group.root for group in self.bound.groups.values())

    def whole(self, options: Options) -> bool:
        """Return whether everything may move: only then an aligned model lies in the basin."""
        return self.movable(options) == self.roots


def choose_spec(checkpoint: Checkpoint, options: Options) -> Choice:
    """Return the spec for a checkpoint.

    Raises SpecError if the named spec does not fit (or, with --strict, leaves a tensor
    unmentioned), UsageError if none is named and not exactly one bundled spec fits.
    """
    if options.spec is None:
        choice = _only_fit(checkpoint, options)
    else:
        choice = Choice(options.spec, _bind(options.spec, checkpoint, options), automatic=False)
    choice = replace(choice, bound=_selected(choice.bound, options))
    if options.strict and choice.bound.untouched:
        raise SpecError(
            f"spec {choice.name!r} does not mention {len(choice.bound.untouched)} tensors",
            where=str(checkpoint.path),
            detail="\n".join(choice.bound.untouched[:10]),
            hint="list them with fixed axes [~], or leave out --strict",
        )
    return choice


def _selected(bound: BoundSpec, options: Options) -> BoundSpec:
    """Return the bound spec with votes for the tensors that --only and --skip leave in."""
    tensors = tuple(
        replace(tensor, votes=tensor.votes and all(map(options.selects, tensor.members)))
        for tensor in bound.tensors
    )
    out = frozenset(name for name in bound.untouched if not options.selects(name))
    return replace(bound, tensors=tensors, buffers=bound.buffers | out)


def _bind(name: str, checkpoint: Checkpoint, options: Options) -> BoundSpec:
    return bind(
        load_spec(name),
        infos(checkpoint),
        config=checkpoint.config,
        sizes=options.sizes,
        ties=checkpoint.ties,
    )


@dataclass(frozen=True)
class Miss:
    """Why a bundled spec is not the one: how many problems, the first of them, what to do."""

    problems: int
    reason: str
    hint: str = ""


def _only_fit(checkpoint: Checkpoint, options: Options) -> Choice:
    found = {name: _try(name, checkpoint, options) for name in bundled()}
    fits = {name: found for name, found in found.items() if isinstance(found, BoundSpec)}
    if len(fits) == 1:
        ((name, bound),) = fits.items()
        return Choice(name, bound, automatic=True)
    if fits:
        raise UsageError(
            f"several bundled specs fit: {', '.join(fits)}",
            where=str(checkpoint.path),
            hint="name one with --spec",
        )
    misses = {name: miss for name, miss in found.items() if isinstance(miss, Miss)}
    nearest = sorted(misses, key=lambda name: misses[name].problems)
    start = "start a spec with `rebasin spec init MODEL > spec.yaml`, then --spec spec.yaml"
    raise UsageError(
        "no bundled spec fits this checkpoint",
        where=str(checkpoint.path),
        detail="\n".join(f"  {name}: {misses[name].reason}" for name in nearest[:NEAREST])
        + f"\n  and {len(nearest) - NEAREST} others, further off" * (len(nearest) > NEAREST),
        hint=misses[nearest[0]].hint or start,
    )


def fitting(checkpoint: Checkpoint, options: Options) -> dict[str, str]:
    """Return what each bundled spec says of a checkpoint: `fits`, or why it does not."""
    found = {name: _try(name, checkpoint, options) for name in bundled()}
    return {n: f.reason if isinstance(f, Miss) else "fits" for n, f in found.items()}


def _try(name: str, checkpoint: Checkpoint, options: Options) -> BoundSpec | Miss:
    """Return a bundled spec bound to all tensors of a checkpoint, or why it is not the one."""
    try:
        bound = _bind(name, checkpoint, options)
    except SpecError as error:
        first = error.problems[0]
        count, hint = len(error.problems), first.hint
        return Miss(count, first.what, f"{name}: {hint}" if count == 1 and hint else "")
    left = uncovered(bound, infos(checkpoint))
    if left:
        return Miss(len(left), f"leaves {len(left)} tensors uncovered, such as {left[0]}")
    return bound
