"""How much memory a matching will take, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from rebasin_cli.errors import MachineError
from rebasin_cli.files.result_memory import STREAMED
from rebasin_cli.matching.match_weights import memory_shares
from rebasin_cli.matching.methods import SOFT
from rebasin_cli.matching.problem.device_tensors import working_dtype
from rebasin_cli.matching.problem.group_families import GroupFamily, families
from rebasin_cli.matching.problem.settings import EFFORTS
from rebasin_cli.matching.problem.similarity_cache import is_dense, kept_words, update_work
from rebasin_cli.matching.relaxation.polytope import walk_words
from rebasin_cli.options.machine import Machine, free_memory
from rebasin_cli.options.search import Search
from rebasin_cli.permuted import Permuted
from rebasin_cli.spec.binding.bound import BoundSpec, draw_permutations
from rebasin_cli.spec_choice.choice import Choice
from rebasin_cli.tensors import TensorSource

WORD = 4  # float32, the working dtype of most models


# The similarity in float32, its float64 copy for the assignment, and the solver's own copy.
SIMILARITY_BYTES = 4 + 8 + 8

# Of the largest tensor: read anew and reordered at every visit where the models are not kept, in
# both; else what is written, as it was and permuted, and where the units of a group do not follow
# one another in it, in the layout of a product too.
VISITED, WRITTEN, LAID_OUT = 4, 2, 3
# Bytes for each pair of units of a group that is compared as it is: sums in float64, a product.
COMPARED = 16


def _working_set(bound: BoundSpec) -> int:
    """Return the bytes one group needs at once: its similarity and its permuted tensors."""
    return _similarity(bound) + VISITED * _largest(bound) * WORD


def estimate_memory(
    choice: Choice, machine: Machine, search: Search, models: Sequence[TensorSource]
) -> int:
    """Return the estimated peak in bytes of matching two of some models, the interpreter left out.

    What is kept of tensors and similarities (see `memory_shares`), and what the visits that
    are made side by side take beside it; or what a walk with soft permutations holds.
    """
    bound, moving = choice.bound, families(choice.bound, choice.movable)
    word = _word(machine, models)
    pair = _voting(bound) * 2 * word
    may = memory_shares(machine.max_memory, _largest(bound))
    held = kept_words(moving, may.similarities // word)
    similarities = sum(n for root, n in held.items() if is_dense(moving[root], bound.groups)) * word
    copies = max(WRITTEN * _largest(bound), LAID_OUT * _laid_out(bound))
    if pair > may.tensors:
        copies = VISITED * _largest(bound)
    visit = max(copies * word, _similarity(bound) + (word - WORD) * _units(bound) ** 2)
    visits = max(visit, min(machine.jobs * visit, may.similarities))
    walk = walk_words(moving, models=1) * word
    walks = walk if _walks(moving, machine, search, walk) else 0
    return max(min(pair, may.tensors) + similarities + visits, walks)


def _walks(
    moving: Mapping[str, GroupFamily], machine: Machine, search: Search, needed: int
) -> bool:
    """Return whether a search walks with soft permutations, as `methods` decides. needed: bytes."""
    if search.method != "auto" or search.start is not None:
        return search.method in SOFT
    sweep = sum(map(update_work, moving.values()))
    return sweep <= EFFORTS[search.effort].cheap and needed <= machine.max_memory


def estimate_together(
    choice: Choice, machine: Machine, models: Sequence[TensorSource], strategy: str
) -> int:
    """Return the estimated peak in bytes of what a strategy of `merge` does to all models at once.

    0 where it takes two at a time.
    """
    moving, word, count = (
        families(choice.bound, choice.movable),
        _word(machine, models),
        len(models),
    )
    if strategy == "universe":
        return walk_words(moving, models=count - 1) * word
    if strategy != "sync-sweeps":
        return 0
    half, pairs = machine.max_memory // 2, count * (count - 1) // 2
    kept = sum(kept_words(moving, half // pairs // word).values()) * pairs
    visit = pairs * _units(choice.bound) ** 2
    return min(count * _voting(choice.bound) * word, half) + (kept + visit) * word


def _word(machine: Machine, models: Sequence[TensorSource]) -> int:
    return working_dtype(torch.device(machine.device), *models).itemsize


def estimate_comparison(
    choice: Choice, machine: Machine, models: Sequence[TensorSource], *, margins: bool
) -> int:
    """Return the estimated peak in bytes of comparing two models as they are, unit by unit.

    margins: every unit with all others of its group, not with its partner alone.
    """
    bound = choice.bound
    word = _word(machine, models)
    pair = min(2 * _voting(bound) * word, machine.max_memory)
    each = margins * (2 * _laid_out(bound) * word + COMPARED * _units(bound) ** 2)
    return pair + each + STREAMED


def in_any_order(model: TensorSource, choice: Choice) -> Permuted:
    """Return a model with all units that may move in other places: what that takes of memory."""
    moving = [g for g in choice.bound.groups.values() if g.root in choice.movable]
    orders = draw_permutations(moving, torch.Generator().manual_seed(0))
    return Permuted(model, choice.bound.tensors, orders)


def _voting(bound: BoundSpec) -> int:
    return sum(prod(t.shape) for t in bound.tensors if t.votes)


def _largest(bound: BoundSpec) -> int:
    return max((prod(t.shape) for t in bound.tensors), default=0)


def _laid_out(bound: BoundSpec) -> int:
    """Return the size of the largest tensor that is copied in the layout of a product."""
    deep = (t for t in bound.tensors if any(len(block.dims) > 2 for block in t.blocks))
    return max((prod(t.shape) for t in deep), default=0)


def _units(bound: BoundSpec) -> int:
    return max((g.size for g in bound.groups.values() if not g.fixed), default=0)


def _similarity(bound: BoundSpec) -> int:
    return _units(bound) ** 2 * SIMILARITY_BYTES


def check_search(choice: Choice, machine: Machine, search: Search, *, together: int = 0) -> None:
    """Raise MachineError if a search does not fit into memory.

    together: models that are permuted softly at once, whatever the method.
    """
    _check_memory(choice.bound, machine)
    models = max(together, int(search.method in SOFT))
    if models:
        _check_walk(choice.bound, machine, movable=choice.movable, models=models)


def _check_memory(bound: BoundSpec, machine: Machine) -> None:
    """Raise MachineError if the largest group does not fit into memory, whatever is kept."""
    needed, free = _working_set(bound), free_memory()
    if needed <= free:
        return
    largest = max(bound.groups.values(), key=lambda group: (not group.fixed, group.size))
    raise MachineError(
        "not enough memory",
        detail=f"group {largest.name!r} of {largest.size:,} units takes about "
        f"{needed / 1e9:.1f} GB at once, {free / 1e9:.1f} GB are free",
        hint="--skip GLOB of the tensors of the group leaves it as it is",
    )


def _check_walk(
    bound: BoundSpec, machine: Machine, *, movable: frozenset[str] | None, models: int
) -> None:
    """Raise MachineError if soft permutations of some models do not fit into memory together."""
    needed = walk_words(families(bound, movable), models) * WORD
    machine.require(
        needed,
        "all models at once take",
        hint="merge with --strategy many, align with --method weights, or raise --max-memory",
    )


def describe_matching(
    choice: Choice | None, machine: Machine, search: Search, models: Sequence[TensorSource]
) -> dict[str, Any]:
    """Return what a plan says of a matching: the spec, its groups, means and memory.

    choice: None: nothing is matched, and there is nothing to say.
    """
    if choice is None:
        return {}
    bound = choice.bound
    return {
        "spec": choice.name,
        "groups": [
            {"name": g.name, "size": g.size, "per": list(g.parents), "fixed": g.fixed}
            for g in bound.groups.values()
        ],
        "untouched": list(bound.untouched),
        "device": machine.device,
        "jobs": machine.jobs,
        "memory": estimate_memory(choice, machine, search, models),
    }
