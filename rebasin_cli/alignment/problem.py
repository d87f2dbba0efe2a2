"""The models of a command, opened, and how they are matched: what most commands begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, overload

from rebasin_cli.alignment.estimate import check_search
from rebasin_cli.alignment.function_check import FunctionCheckRequest
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import warn
from rebasin_cli.files.coded import refuse_codes
from rebasin_cli.files.inputs import check_fit, open_models
from rebasin_cli.options.machine import Machine, plan_machine
from rebasin_cli.options.search import Search
from rebasin_cli.spec_choice.choice import Choice, GivenSpec, choose_spec
from rebasin_cli.wording import listing


class ProblemRequest(FunctionCheckRequest, Protocol):
    """What is asked of models that are matched."""

    @property
    def search(self) -> Search:
        """How permutations are searched for."""


ChoiceT_co = TypeVar("ChoiceT_co", bound="Choice | None", covariant=True)


@dataclass(frozen=True)
class MatchingProblem(Generic[ChoiceT_co]):
    """Models of one architecture, opened, the first of them the reference.

    choice: the spec that they are matched under; None: they are not.
    """

    models: tuple[Checkpoint, ...]
    machine: Machine
    choice: ChoiceT_co


@overload
def open_problem(
    paths: Sequence[Path],
    request: ProblemRequest,
    *,
    done: str | None = ...,
    searched: bool = ...,
    rotated: bool = ...,
) -> MatchingProblem[Choice]: ...


@overload
def open_problem(
    paths: Sequence[Path],
    request: ProblemRequest,
    *,
    matched: bool,
    done: str | None = ...,
    searched: bool = ...,
    together: int = ...,
) -> MatchingProblem[Choice | None]: ...


def open_problem(
    paths: Sequence[Path],
    request: ProblemRequest,
    *,
    matched: bool = True,
    done: str | None = None,
    searched: bool = True,
    together: int = 0,
    rotated: bool = False,
) -> MatchingProblem[Choice] | MatchingProblem[Choice | None]:
    """Return the models of a command, checked to belong together; nothing is read but headers.

    matched: whether there is a spec. done: what codes of quantised weights would not stand, as
    `averaged`. searched: whether permutations are searched for under it, which takes memory.
    together: models that are permuted softly at once. rotated: see `choose_spec`. Raises
    CheckpointError, SpecError, UsageError or MachineError, before any work.
    """
    machine = plan_machine(request.computing, request.search)
    models = open_models(paths, request.selection)
    if not matched:
        check_models(models, request, done=done)
        return MatchingProblem(tuple(models), machine, None)
    return problem_of(
        models, request, machine, done=done, searched=searched, together=together, rotated=rotated
    )


def problem_of(
    models: Sequence[Checkpoint],
    request: ProblemRequest,
    machine: Machine,
    *,
    given: GivenSpec | None = None,
    done: str | None = None,
    searched: bool = True,
    together: int = 0,
    rotated: bool = False,
) -> MatchingProblem[Choice]:
    """Return models that are open already as a problem; see `open_problem`.

    given: the spec, if none is named.
    """
    check_models(models, request, done=done)
    choice = choose_spec(
        models, request.selection, tracing=request.tracing, given=given, rotated=rotated
    )
    if searched:
        check_search(choice, machine, request.search, together=together)
    return MatchingProblem(tuple(models), machine, choice)


def check_models(
    models: Sequence[Checkpoint], request: ProblemRequest, *, done: str | None = None
) -> None:
    """Raise if models do not belong together, or hold codes where `done` needs weights."""
    if done is not None:
        refuse_codes(models, request.selection, done=done)
    check_fit(models[0], models[1:], request.selection, request.tracing)


def tell_idle(request: ProblemRequest, reason: str, **others: object) -> None:
    """Warn of options that say how to align, and of others, where nothing is aligned."""
    chosen = request.selection
    given = {
        "--spec": chosen.spec,
        "--set": chosen.sizes,
        "--strict": chosen.strict,
        "--pass-through": chosen.pass_through,
        "--model": request.tracing.target,
        "--check": request.computing.check,
        "options of the search": request.search != Search(),
        **others,
    }
    warn_idle(given, reason)


def warn_idle(given: Mapping[str, object], reason: str) -> None:
    """Warn of options that were given, by name: what is None, empty or false was not."""
    idle = [name for name, value in given.items() if value]
    if idle:
        text = f"{listing(idle)}: of no use, since {reason}"
        warn(text)
