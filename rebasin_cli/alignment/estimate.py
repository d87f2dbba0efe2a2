"""How much memory a matching will take, from headers alone."""

from __future__ import annotations

from math import prod
from typing import Any

from rebasin_cli.errors import MachineError
from rebasin_cli.matching.match_weights import memory_shares
from rebasin_cli.matching.methods import SOFT
from rebasin_cli.matching.problem.group_families import families
from rebasin_cli.matching.problem.similarity_cache import is_dense, kept_words
from rebasin_cli.matching.relaxation.polytope import walk_words
from rebasin_cli.options.machine import Machine, free_memory
from rebasin_cli.options.search import Search
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec_choice.choice import Choice

WORD = 4  # float32, the working dtype


# The similarity in float32, its float64 copy for the assignment, and the solver's own copy.
SIMILARITY_BYTES = 4 + 8 + 8

# Of the largest tensor: read anew and reordered at every visit where the models are not kept, in
# both; else what is written, as it was and permuted.
VISITED, WRITTEN = 4, 2


def working_set(bound: BoundSpec) -> int:
    """Return the bytes one group needs at once: its similarity and its permuted tensors."""
    return _similarity(bound) + VISITED * _largest(bound) * WORD


def estimate_memory(choice: Choice, machine: Machine) -> int:
    """Return the estimated peak in bytes of matching two models, the interpreter left out.

    What is kept of tensors and similarities (see `memory_shares`), and what the visits that
    are made side by side take beside it. Models in float64 take twice as much.
    """
    bound, moving = choice.bound, families(choice.bound, choice.movable)
    models = 2 * sum(prod(t.shape) for t in bound.tensors if t.votes) * WORD
    may = memory_shares(machine.max_memory, _largest(bound))
    held = kept_words(moving, may.similarities // WORD)
    similarities = sum(n for root, n in held.items() if is_dense(moving[root], bound.groups)) * WORD
    copies = (VISITED if models > may.tensors else WRITTEN) * _largest(bound) * WORD
    visit = max(copies, _similarity(bound))
    visits = max(visit, min(machine.jobs * visit, may.similarities))
    return min(models, may.tensors) + similarities + visits


def _largest(bound: BoundSpec) -> int:
    return max((prod(t.shape) for t in bound.tensors), default=0)


def _similarity(bound: BoundSpec) -> int:
    units = max((g.size for g in bound.groups.values() if not g.fixed), default=0)
    return int(units**2) * SIMILARITY_BYTES


def check_search(choice: Choice, machine: Machine, search: Search, *, together: int = 0) -> None:
    """Raise MachineError if a search does not fit into memory.

    together: models that are permuted softly at once, whatever the method.
    """
    check_memory(choice.bound, machine)
    models = max(together, int(search.method in SOFT))
    if models:
        check_walk(choice.bound, machine, movable=choice.movable, models=models)


def check_memory(bound: BoundSpec, machine: Machine) -> None:
    """Raise MachineError if the largest group does not fit into memory, whatever is kept."""
    needed, free = working_set(bound), free_memory()
    if needed <= free:
        return
    largest = max(bound.groups.values(), key=lambda group: (not group.fixed, group.size))
    raise MachineError(
        "not enough memory",
        detail=f"group {largest.name!r} of {largest.size:,} units takes about "
        f"{needed / 1e9:.1f} GB at once, {free / 1e9:.1f} GB are free",
        hint="--skip GLOB of the tensors of the group leaves it as it is",
    )


def check_walk(
    bound: BoundSpec, machine: Machine, *, movable: frozenset[str] | None, models: int
) -> None:
    """Raise MachineError if soft permutations of some models do not fit into memory together."""
    needed = walk_words(families(bound, movable), models) * WORD
    machine.require(
        needed,
        "all models at once take",
        hint="merge with --strategy many, align with --method weights, or raise --max-memory",
    )


def describe_matching(choice: Choice, machine: Machine) -> dict[str, Any]:
    """Return what a plan says of a matching: the spec, its groups, means and memory."""
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
        "memory": estimate_memory(choice, machine),
    }
