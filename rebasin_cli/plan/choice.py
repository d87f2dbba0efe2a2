"""Which spec describes a checkpoint: the one asked for, or the only bundled one that fits."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.checkpoint import Checkpoint
from rebasin_cli.errors import SpecError, UsageError
from rebasin_cli.matching.families import root_of
from rebasin_cli.plan.options import Options
from rebasin_cli.spec import BoundSpec, bind, bundled, load_spec, uncovered
from rebasin_cli.tensors import infos


@dataclass(frozen=True)
class Choice:
    """A spec bound to a checkpoint, its name, and whether it was chosen automatically."""

    name: str
    bound: BoundSpec
    automatic: bool

    def movable(self, options: Options) -> frozenset[str]:
        """Return the roots of the families all of whose tensors --only and --skip leave in."""
        held = {
            root_of(self.bound.groups[group])
            for tensor in self.bound.tensors
            for group in tensor.groups
            if not all(options.selects(name) for name in tensor.members)
        }
        return frozenset(map(root_of, self.bound.groups.values())) - held


def choose_spec(checkpoint: Checkpoint, options: Options) -> Choice:
    """Return the spec for a checkpoint.

    Raises SpecError if the named spec does not fit (or, with --strict, leaves a tensor
    unmentioned), UsageError if none is named and not exactly one bundled spec fits.
    """
    if options.spec is None:
        choice = _only_fit(checkpoint, options)
    else:
        choice = Choice(options.spec, _bind(options.spec, checkpoint, options), automatic=False)
    if options.strict and choice.bound.untouched:
        raise SpecError(
            f"spec {choice.name!r} does not mention {len(choice.bound.untouched)} tensors",
            where=str(checkpoint.path),
            detail="\n".join(choice.bound.untouched[:10]),
            hint="list them with fixed axes [~], or leave out --strict",
        )
    return choice


def _bind(name: str, checkpoint: Checkpoint, options: Options) -> BoundSpec:
    return bind(
        load_spec(name),
        infos(checkpoint),
        config=checkpoint.config,
        sizes=options.sizes,
        ties=checkpoint.ties,
    )


def _only_fit(checkpoint: Checkpoint, options: Options) -> Choice:
    found = {name: _try(name, checkpoint, options) for name in bundled()}
    fits = {name: found for name, found in found.items() if isinstance(found, BoundSpec)}
    if len(fits) == 1:
        ((name, bound),) = fits.items()
        return Choice(name, bound, automatic=True)
    lines = dict.fromkeys(fits, "fits") or {name: str(miss) for name, miss in found.items()}
    raise UsageError(
        "several bundled specs fit" if fits else "no bundled spec fits this checkpoint",
        where=str(checkpoint.path),
        detail="\n".join(f"  {name}: {line}" for name, line in lines.items()),
        hint="name one with --spec, or start one with `rebasin spec init MODEL > spec.yaml`",
    )


def fitting(checkpoint: Checkpoint, options: Options) -> dict[str, str]:
    """Return what each bundled spec says of a checkpoint: `fits`, or why it does not."""
    found = {name: _try(name, checkpoint, options) for name in bundled()}
    return {n: "fits" if isinstance(f, BoundSpec) else f for n, f in found.items()}


def _try(name: str, checkpoint: Checkpoint, options: Options) -> BoundSpec | str:
    """Return a bundled spec bound to all tensors of a checkpoint, or why it is not the one."""
    try:
        bound = _bind(name, checkpoint, options)
    except SpecError as error:
        return error.problems[0].what
    left = uncovered(bound, infos(checkpoint))
    return f"leaves {len(left)} tensors uncovered, such as {left[0]}" if left else bound
