"""A backbone against a model with a head: what may be in one of them only, and what then stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape

from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.errors import warn
from rebasin_cli.files.difference import difference_of, skipped_globs
from rebasin_cli.files.headers import Headers
from rebasin_cli.files.names.running_averages import of_averages
from rebasin_cli.options.selection import Selection
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.tensors import infos
from rebasin_cli.wording import listing

# A unit of a chain is written by one matrix and read by another, or by two of a gate.
_CHAIN = 3
_BLOCK = re.compile(r"(?:.*?\.)??[0-9]+\.")


def heads_apart(
    reference: Checkpoint, models: Sequence[Checkpoint], selection: Selection
) -> tuple[str, ...]:
    """Return globs for the tensors of heads that not all models have, and tell them.

    Nothing of a model that differs from the reference in more than heads is among them, but running
    averages, which are not told: none need have them.
    """
    found: dict[str, None] = {}
    for model in models:
        averages = [escape(n) for n in of_averages(infos(reference)) ^ of_averages(infos(model))]
        found |= dict.fromkeys(averages)
        difference = difference_of(infos(reference), infos(model), selection, apart=averages)
        if difference.of_heads:
            apart = listing(skipped_globs(difference))
            warn(
                f"{apart} not in both {reference.path} and {model.path}: "
                "what a head reads or a backbone returns stays in order"
            )
            found |= dict.fromkeys(map(escape, (*difference.missing, *difference.extra)))
    return tuple(found)


def returned_roots(
    bound: BoundSpec, headers: Headers, models: Sequence[Checkpoint]
) -> frozenset[str]:
    """Return the roots of groups that a model without the head of another may return.

    What a backbone returns goes through all of its layers, or through what lies beside them:
    units of one block, or between two layers of a chain, it does not return. What a model lacks
    whole, and reads and writes no units of the rest, as the autoencoder in a file of several
    models, is no head.
    """
    alone = _alone(bound, headers)
    parts = [headers.infos[name] for name in headers.partial - alone]
    apart = any(info.floating and info.numel > 1 for info in parts)
    told = [model.config["architectures"] for model in models if "architectures" in model.config]
    if all(kind == told[0] for kind in told) and not apart:
        return frozenset()
    return frozenset(
        g.root for g in bound.groups.values() if not g.fixed and _passes(bound, g.name)
    )


def _alone(bound: BoundSpec, headers: Headers) -> frozenset[str]:
    """Return the tensors, of those not in all models, that share no group with those that are."""
    lacking = [t for t in bound.tensors if headers.partial.issuperset(t.members)]
    shared = {g for t in bound.tensors if headers.everywhere & {*t.members} for g in t.groups}
    free = {group for group in shared if not bound.groups[group].fixed}
    return frozenset(name for t in lacking if free.isdisjoint(t.groups) for name in t.members)


def _passes(bound: BoundSpec, group: str) -> bool:
    members = [t.members[0] for t in bound.tensors if group in t.groups]
    matrices = [t for t in bound.tensors if group in t.groups and len(t.shape) > 1]
    blocks = {found[0] if (found := _BLOCK.match(name)) else name for name in members}
    return len(blocks) > 1 and len(matrices) > _CHAIN
