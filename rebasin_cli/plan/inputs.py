"""Opening the models and checking, from their headers, that they belong together."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path

from rebasin_cli.checkpoint import Checkpoint, open_checkpoint
from rebasin_cli.errors import (
    CheckpointError,
    MachineError,
    Problem,
    RebasinError,
    UsageError,
    suggest,
)
from rebasin_cli.merging.whole import kind
from rebasin_cli.plan.configs import check_configs
from rebasin_cli.plan.options import Options
from rebasin_cli.tensors import TensorInfo, dtype_name, infos

SHOWN = 5  # names listed for one kind of mismatch; the rest is counted


def open_models(paths: Sequence[Path], options: Options) -> list[Checkpoint]:
    """Open every model. Raises one error with the problems of all that cannot be opened."""
    opened: list[Checkpoint] = []
    failures: list[RebasinError] = []
    for path in paths:
        try:
            opened.append(open_checkpoint(path, key=options.part, dequantise=options.dequantize))
        except RebasinError as error:
            failures.append(error)
    if not failures:
        check_globs(opened, options)
        return opened
    for checkpoint in opened:
        checkpoint.close()
    if len(failures) == 1:
        raise failures[0]
    of_machine = all(isinstance(failure, MachineError) for failure in failures)
    kind = MachineError if of_machine else CheckpointError
    raise kind(*dict.fromkeys(p for failure in failures for p in failure.problems))


def check_globs(models: Sequence[Checkpoint], options: Options) -> None:
    """Raise UsageError if a glob over tensor names matches none: it is a typing error."""
    names = {name for model in models for name in model.names()}
    globs = (*options.only, *options.skip, *options.pass_through)
    idle = [glob for glob in globs if not fnmatch.filter(names, glob)]
    if idle:
        problems = [
            Problem(f"no tensor is called {glob!r}", hint=suggest(glob, names)) for glob in idle
        ]
        raise UsageError(*problems)


def check_fit(reference: Checkpoint, models: Sequence[Checkpoint], options: Options) -> None:
    """Raise CheckpointError if a model has other tensors, shapes or settings than the reference.

    Dtypes of one kind may differ. Tensors left out by --only and --skip are not compared.
    """
    problems = [p for m in models for p in mismatches(reference, m, options)]
    if problems:
        raise CheckpointError(*problems)
    check_configs([reference, *models], options)


def mismatches(reference: Checkpoint, model: Checkpoint, options: Options) -> Iterator[Problem]:
    """Yield what keeps a model from being compared with the reference, tensor by tensor."""
    a, b = infos(reference), infos(model)
    missing = [n for n in a if n not in b and options.selects(n)]
    extra = [n for n in b if n not in a and options.selects(n)]
    if missing or extra:
        yield Problem(
            f"its tensors are not those of {reference.path}",
            where=str(model.path),
            detail="\n".join(listed("missing", missing) + listed("not expected", extra)),
            hint=_names_hint(a, b),
        )
    shapes = [n for n in a if n in b and options.selects(n) and _apart(a[n], b[n], options)]
    if shapes:
        yield Problem(
            f"{_count(len(shapes), 'tensor')} of another shape than in {reference.path}",
            where=str(model.path),
            detail="\n".join(
                listed("shape", [shape_text(n, b[n].shape, a[n].shape) for n in shapes])
            ),
            hint=f"{_skipping(shapes)} leaves them as they are; where vocabularies, classes or "
            "channels differ, align, merge and lerp take what both have with --common",
        )
    kinds = [n for n in a if n in b and options.selects(n) and _of_two_kinds(a[n], b[n])]
    if kinds:
        texts = [
            f"{n} is {dtype_name(b[n].dtype)}, expected {dtype_name(a[n].dtype)}" for n in kinds
        ]
        yield Problem(
            f"{_count(len(kinds), 'tensor')} of another kind of numbers than in {reference.path}",
            where=str(model.path),
            detail="\n".join(listed("kind", texts)),
            hint=f"{_skipping(kinds)} leaves them as they are",
        )


def _apart(ours: TensorInfo, theirs: TensorInfo, options: Options) -> bool:
    """Return whether two tensors cannot be compared; a common part needs as many axes."""
    if options.common:
        return len(ours.shape) != len(theirs.shape)
    return ours.shape != theirs.shape


def _skipping(names: Sequence[str]) -> str:
    """Return the options that leave tensors out, if they are few."""
    few = len(names) <= SHOWN
    return " ".join(f"--skip '{escape(name)}'" for name in names) if few else "--skip GLOB"


def _of_two_kinds(ours: TensorInfo, theirs: TensorInfo) -> bool:
    """Return whether one is real, the other complex or whole. Single numbers are counters."""
    return theirs.numel > 1 and kind(ours.dtype) != kind(theirs.dtype)


def shape_text(name: str, found: Sequence[int], expected: Sequence[int]) -> str:
    """Return what is wrong with the shape of a tensor."""
    return f"{name} is {list(found)}, expected {list(expected)}"


def listed(label: str, names: Sequence[str]) -> list[str]:
    """Return a line for each of the first names, and one that counts the rest."""
    lines = [f"{label}: {name}" for name in names[:SHOWN]]
    more = len(names) - SHOWN
    return [*lines, f"{label}: and {more} more"] if more > 0 else lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _names_hint(a: Mapping[str, TensorInfo], b: Mapping[str, TensorInfo]) -> str:
    """Return advice if one common prefix explains all differences of names."""
    for longer, shorter in ((a, b), (b, a)):
        heads = Counter(name.partition(".")[0] for name in longer)
        for head in heads:
            stripped = {name.removeprefix(f"{head}.") for name in longer}
            if stripped == set(shorter):
                return f"all {len(shorter)} names match without the prefix '{head}.': rename them"
    return "--only and --skip leave tensors out of the comparison"
