"""Where chains meet: the arrays of all models that are permuted softly.

A chain's soft permutation P is a doubly stochastic (N, N) matrix, rows in the common frame,
columns in the model's: (P W)[i] = sum over j of P[i, j] W[j]. At a vertex P[i, p[i]] = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.matching.problem.axis_chains import Chain, Site, reorder
from rebasin_cli.matching.problem.device_tensors import DeviceTensors

GroupNames = tuple[str, ...]
Vertex = Mapping[GroupNames, Tensor]  # the order of each chain


@dataclass(frozen=True)
class Field:
    """Arrays of all models, (*chain sizes, m), in which the same chains meet."""

    chains: tuple[Chain, ...]
    arrays: tuple[Tensor, ...]

    @property
    def everywhere(self) -> int:
        """The set of all its chains; a set is written in the bits of a number."""
        return (1 << len(self.chains)) - 1


def soft_fields(
    models: Sequence[DeviceTensors],
    sites: Sequence[Site],
    relaxed: frozenset[str],
    still: Sequence[Vertex],
) -> list[Field]:
    """Return the arrays of the models, those in which one chain is alone joined into one.

    relaxed: roots of the families with soft permutations; still: the orders of all others.
    Where one chain is alone <A, P B> = <P, A B'>, and arrays side by side along m give the sum of
    their products: biases, norms, layers that read the input are then one product instead of many.
    """
    alone: dict[GroupNames, tuple[Chain, list[list[Tensor]]]] = {}
    found = list[Field]()
    for site in sites:
        keep = [k for k, chain in enumerate(site.chains) if chain.groups[0] in relaxed]
        chains = tuple(site.chains[k] for k in keep)
        arrays = [
            _settled(site, model, keep, orders) for model, orders in zip(models, still, strict=True)
        ]
        if len(chains) == 1:
            alone.setdefault(chains[0].groups, (chains[0], []))[1].append(arrays)
        elif chains:
            found.append(Field(chains, tuple(arrays)))
    joined = (
        Field((chain,), tuple(torch.cat(parts, 1) for parts in zip(*rows, strict=True)))
        for chain, rows in alone.values()
    )
    return [*found, *joined]


def _settled(site: Site, model: DeviceTensors, keep: Sequence[int], orders: Vertex) -> Tensor:
    """Return a model's array with the chains that stay as they are folded into the last axis."""
    here = [
        None if k in keep else orders[chain.groups].to(model.device)
        for k, chain in enumerate(site.chains)
    ]
    array = reorder(site.array(model), here)
    rest = [k for k in range(array.dim()) if k not in keep]
    return array.permute(*keep, *rest).reshape(*(site.chains[k].size for k in keep), -1)


def mean_over_orders(array: Tensor, position: int, chain: Chain, fixed: frozenset[str]) -> Tensor:
    """Return the mean of an array over all orders of a chain along one of its dimensions.

    Every unit is in every place equally often, so each becomes the mean of all: over heads and
    the dims in them if both move, over the dims of each head if heads stay.
    """
    sizes = array.shape
    units = array.reshape(*sizes[:position], *chain.shape, *sizes[position + 1 :])
    moving = [position + k for k, name in enumerate(chain.groups) if name not in fixed]
    if not moving:
        return array
    return units.mean(moving, keepdim=True).expand(units.shape).reshape(sizes)
