"""Checkpoints whose weights are stored as codes: what must not be done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager

from rebasin_cli.checkpoint.quantization.quantized import Codes, find_codes
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import CheckpointError, Problem, RebasinError
from rebasin_cli.files.difference import label_names
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import infos


def refuse_codes(models: Sequence[Checkpoint], selection: Selection, *, done: str) -> None:
    """Raise CheckpointError for models with codes among the tensors that take part.

    done: what the codes cannot be, `averaged`.
    """
    problems = [
        _problem(model, codes, f"codes cannot be {done}")
        for model in models
        if (codes := [c for c in _codes(model) if selection.selects(c.name)])
    ]
    if problems:
        raise CheckpointError(*problems)


@contextmanager
def told_of_codes(models: Sequence[Checkpoint]) -> Iterator[None]:
    """Add to whatever refuses the models that their weights are codes, if they are."""
    try:
        yield
    except RebasinError as error:
        coded = ((model, _codes(model)) for model in models)
        more = [
            _problem(model, codes, "units of codes move only with all that gives them meaning")
            for model, codes in coded
            if codes
        ]
        if not more:
            raise
        raise type(error)(*error.problems, *more) from error


def refuse_torn_codes(models: Sequence[Checkpoint], named: Callable[[str], bool]) -> None:
    """Raise CheckpointError where units of codes would move without what gives them meaning.

    named: whether the spec names a tensor.
    """
    problems = [
        _problem(model, torn, f"units do not move without {_apart(model, torn, named)}")
        for model in models
        if (torn := [codes for codes in _codes(model) if _apart(model, [codes], named)])
    ]
    if problems:
        raise CheckpointError(*problems)


def apart_by_codes(models: Sequence[Checkpoint]) -> list[Problem]:
    """Return what keeps models apart of which some alone are codes; nothing if all are, or none."""
    found = [_codes(model) for model in models]
    if all(found):
        return []
    why = "codes cannot be compared with weights"
    return [_problem(m, codes, why) for m, codes in zip(models, found, strict=True) if codes]


def moves_together(bound: BoundSpec, movable: Set[str]) -> Callable[[str], bool]:
    """Return whether a tensor stays with others of its model: a spec names it, or nothing moves.

    movable: groups that may move.
    """
    named = frozenset(name for tensor in bound.tensors for name in tensor.members)
    return lambda name: not movable or name in named


def _codes(model: Checkpoint) -> tuple[Codes, ...]:
    return find_codes(infos(model), model.config)


def _apart(model: Checkpoint, found: Iterable[Codes], named: Callable[[str], bool]) -> str:
    """Return what of some codes a spec does not name, single numbers aside; empty: nothing."""
    for codes in found:
        large = [n for n in (codes.name, *codes.others) if model.info(n).numel > 1]
        unnamed = [name for name in large if not named(name)]
        if unnamed:
            return f"{unnamed[0]!r}, which the spec does not name"
    return ""


def _problem(model: Checkpoint, codes: Sequence[Codes], why: str) -> Problem:
    kinds = " and ".join(dict.fromkeys(c.kind for c in codes))
    plain = all(c.scale for c in codes)
    return Problem(
        f"its weights are quantised ({kinds}): {why}",
        where=str(model.path),
        detail="\n".join(label_names("codes", [c.name for c in codes])),
        hint="--dequantize reads them as the weights that they stand for"
        if plain
        else "save it as plain weights with the library that made it",
    )
