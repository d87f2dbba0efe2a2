"""The bundled spec that fits a checkpoint, found without binding all of them.

The names alone rule out nearly every spec (`least_problems`); the rest are bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from typing import NoReturn

from rebasin_cli.errors import SpecError, UsageError
from rebasin_cli.files.headers import Headers
from rebasin_cli.files.names.name_views import View, bind_seen, may_be_chain, views
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.outline import idle_patterns, least_problems, outlines, ruled_out
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.language.model import Spec
from rebasin_cli.spec.library import bundled_names, load_spec, spec_text
from rebasin_cli.spec_choice.hints import model_hint
from rebasin_cli.spec_choice.unnamed import is_excused, touched_groups, unnamed_tensors
from rebasin_cli.wording import count

# Specs of models whose head may be tied to the embedding, so that files look alike without a head.
WITH_HEAD = frozenset(
    {"gpt2", "llama", "mixtral", "qwen_moe", "moe_stacked", "t5", "bart", "whisper"}
)
START = (
    "--model file.py:Class traces it, if you have the code; else start a spec with "
    "`rebasin spec init MODEL > spec.yaml`, then --spec spec.yaml"
)
FEW = 3  # tensors that a spec may leave uncovered for a hint to name them all
NEAREST = 5  # specs listed when none fits, those with the fewest problems first


class NoFitError(UsageError):
    """No bundled spec fits: another way to one may be tried."""


@dataclass(frozen=True)
class Fit:
    """The bundled spec that fits. alike: others that fit and allow the same permutations."""

    name: str
    bound: BoundSpec
    alike: tuple[str, ...] = ()


@dataclass(frozen=True)
class Miss:
    """Why a bundled spec is not the one: how many problems, the first of them, what to do."""

    problems: int
    reason: str
    hint: str = ""


def only_fit(headers: Headers, selection: Selection) -> Fit:
    """Return the one bundled spec that fits all tensors of some models.

    Raises NoFitError if none does, UsageError if several differ in what they allow.
    """
    trials = list(_trials(headers, selection))
    fits = next(filter(None, (trial.fits() for trial in trials)), {})
    if not fits:
        _none_fits(trials[0])
    (name, first), *others = fits.items()
    if headers.bare and name in WITH_HEAD:
        raise NoFitError(
            f"spec {name!r} is of a model with a head, and {headers.folder} holds one without",
            where=headers.where,
            detail="its hidden states are its output, so they keep their order",
            hint=f"--model hf:{headers.folder}",
        )
    if all(same_symmetry(first, bound) for _, bound in others):
        return Fit(name, first, tuple(other for other, _ in others))
    raise UsageError(
        f"several bundled specs fit: {', '.join(fits)}",
        where=headers.where,
        hint="name one with --spec",
    )


def bundled_verdicts(headers: Headers, selection: Selection) -> dict[str, str]:
    """Return what each bundled spec says of models: `fits`, or why it does not."""
    trials = list(_trials(headers, selection))
    trial = next((trial for trial in trials if trial.fits()), trials[0])
    return {name: trial.verdict(name) for name in trial.least}


def bound_to(spec: Spec, headers: Headers, selection: Selection) -> BoundSpec:
    """Return a spec bound to the tensors of models. Raises SpecError with every problem."""
    return bind_seen(
        spec,
        headers.infos,
        config=headers.config,
        sizes=selection.sizes,
        ties=headers.ties,
        aside=_excused_names(headers, selection),
    )


def _excused_names(headers: Headers, selection: Selection) -> list[str]:
    return [name for name in headers.infos if is_excused(name, selection)]


def _trials(headers: Headers, selection: Selection) -> Iterator[_BundledFits]:
    """Yield the ways to see the names, as they are first."""
    aside = _excused_names(headers, selection)
    seen = views(headers.infos, headers.ties, aside)
    return (_BundledFits(headers, selection, view) for view in seen if may_be_chain(view))


class _BundledFits:
    """All bundled specs against the headers of some models, as a view shows them."""

    def __init__(self, headers: Headers, selection: Selection, view: View) -> None:
        self.headers, self._selection = headers, selection
        excused = [view.names[name] for name in _excused_names(headers, selection)]
        self._names = outlines(view.infos, view.ties, excused=excused)
        self.path = headers.where
        self._found: dict[str, BoundSpec | Miss] = {}

    @cached_property
    def least(self) -> dict[str, int]:
        """The fewest problems that each spec can have."""
        return {name: least_problems(load_spec(name), self._names) for name in bundled_names()}

    def candidates(self) -> list[str]:
        """Return the specs that names do not rule out; most are not even parsed for that."""
        likely = [name for name in bundled_names() if not ruled_out(spec_text(name), self._names)]
        return [name for name in likely if not least_problems(load_spec(name), self._names)]

    def fits(self) -> dict[str, BoundSpec]:
        """Return the bundled specs that fit, bound."""
        found = {name: self.bound(name) for name in self.candidates()}
        return {name: bound for name, bound in found.items() if isinstance(bound, BoundSpec)}

    def bound(self, name: str) -> BoundSpec | Miss:
        """Return a bundled spec bound to all tensors there are, or why it is not."""
        if name not in self._found:
            self._found[name] = self._bound(name)
        return self._found[name]

    def _bound(self, name: str) -> BoundSpec | Miss:
        try:
            bound = bound_to(load_spec(name), self.headers, self._selection)
        except SpecError as error:
            first = error.problems[0]
            problems, hint = len(error.problems), first.hint
            # A bundled spec is not edited: options help, what its author could do does not.
            useful = problems == 1 and hint.startswith("--")
            return Miss(problems, first.what, f"{name}: {hint}" if useful else "")
        left = unnamed_tensors(bound, self.headers, self._selection)
        if left:
            reason = f"leaves {count(len(left), 'tensor')} uncovered, such as {left[0]}"
            held = any(touched_groups(bound, self.headers.infos[one]) for one in left)
            return Miss(len(left), reason, "" if held else _passing(name, left))
        return bound

    def verdict(self, name: str) -> str:
        """Return `fits`, or why not; that may be told without binding."""
        idle = next(idle_patterns(load_spec(name), self._names), None)
        if idle is not None:
            return f"pattern {idle!r} matches no tensor"
        found = self.bound(name)
        return found.reason if isinstance(found, Miss) else "fits"


def _passing(name: str, left: Sequence[str]) -> str:
    """Return how the few tensors that a spec does not name, and that hold no units, stay."""
    if len(left) > FEW:
        return ""
    globs = " ".join(f"--pass-through '{escape(one)}'" for one in left)
    return f"with {globs} {name} fits; or {START}"


def _none_fits(trial: _BundledFits) -> NoReturn:
    misses = _nearest(trial)
    names = sorted((n for n in trial.least if n in misses), key=lambda name: misses[name].problems)
    nearest = misses[names[0]]
    if nearest.hint:
        raise NoFitError(
            "no bundled spec fits this checkpoint as it is",
            where=trial.path,
            detail=f"  {names[0]}: {nearest.reason}",
            hint=nearest.hint,
        )
    others = len(trial.least) - NEAREST
    raise NoFitError(
        "no bundled spec fits this checkpoint",
        where=trial.path,
        detail="\n".join(f"  {name}: {misses[name].reason}" for name in names[:NEAREST])
        + f"\n  and {others} others, further off" * (others > 0),
        hint=model_hint(trial.headers) or START,
    )


def _nearest(trial: _BundledFits) -> dict[str, Miss]:
    """Return the misses with the fewest problems, NEAREST of them or more.

    Specs are bound in the order of the fewest problems they can have, until no other spec can
    have as few as those.
    """
    misses: dict[str, Miss] = {}
    for name in sorted(trial.least, key=lambda name: trial.least[name]):
        counts = sorted(miss.problems for miss in misses.values())
        if len(counts) >= NEAREST and trial.least[name] > counts[NEAREST - 1]:
            break
        found = trial.bound(name)
        if isinstance(found, Miss):
            misses[name] = found
    return misses
