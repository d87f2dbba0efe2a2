"""The names of tensors as the program sees them: without what wrappers put into them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rebasin_cli.checkpoint.failures import cap_problems
from rebasin_cli.errors import CheckpointError, Problem, UsageError
from rebasin_cli.tensors import TensorInfo

# torch.compile, FSDP, DeepSpeed and activation checkpointing: no module of a user is called so.
WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"}
)
# DataParallel and AveragedModel. A user's own module may be called so, but then not all of it is.
_PARALLEL = "module."


def seen_names(
    stored: Mapping[str, TensorInfo], renames: Sequence[tuple[str, str]] = (), *, where: str
) -> dict[str, str]:
    """Return the name of each tensor as the program sees it -> its name in the file.

    renames: pairs of a regular expression and what it becomes, applied in turn before anything
    else. Raises UsageError for one that is none, CheckpointError if two names become one.
    """
    renamed = _apply_renames(list(stored), renames, where)
    seen = _unwrapped(renamed, stored)
    return dict(zip(seen, stored, strict=True))


def is_counter(info: TensorInfo) -> bool:
    """Return whether a tensor is a count or a switch, as wrappers add them beside the weights."""
    return info.numel <= 1 and not info.floating


def strip_wrappers(name: str) -> str:
    """Return a name without the segments that wrappers add.

    >>> strip_wrappers("layers.0._orig_mod.weight")
    'layers.0.weight'
    """
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in WRAPPERS), last])


def _unwrapped(names: Sequence[str], stored: Mapping[str, TensorInfo]) -> Sequence[str]:
    """Return the names without what wrappers added, or as they are if two would become one."""
    seen = [strip_wrappers(name) for name in names]
    counters = [is_counter(info) for info in stored.values()]
    while _all_parallel(seen, counters):
        seen = [name.removeprefix(_PARALLEL) for name in seen]
    return seen if len(set(seen)) == len(seen) else names


def _all_parallel(names: Sequence[str], counters: Sequence[bool]) -> bool:
    """Return whether all names, those of counters aside, start as in a parallel wrapper."""
    weights = [name for name, counter in zip(names, counters, strict=True) if not counter] or names
    return bool(weights) and all(n.startswith(_PARALLEL) and n != _PARALLEL for n in weights)


def _apply_renames(names: list[str], renames: Sequence[tuple[str, str]], where: str) -> list[str]:
    new = names
    for pattern, replacement in renames:
        new = substitute_names(pattern, replacement, new)
    count = Counter(new)
    problems = [
        Problem(
            f"--rename makes {count[name]} tensors {name!r}",
            where=where,
            detail=", ".join(old for old, n in zip(names, new, strict=True) if n == name),
        )
        for name in sorted(count)
        if count[name] > 1
    ]
    if problems:
        raise CheckpointError(*cap_problems(problems))
    return new


def substitute_names(pattern: str, replacement: str, names: Sequence[str]) -> list[str]:
    """Return names in which a regular expression is replaced; UsageError if it is none."""
    try:
        return [re.sub(pattern, replacement, name) for name in names]
    except (re.error, IndexError) as error:
        raise UsageError(
            f"--rename {pattern}={replacement}: {error}",
            hint="OLD is a regular expression of Python, NEW may refer to its groups as \\1",
        ) from error
