"""The blocks that vote for maps: read from a model, weighted, as matrices of one family's units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rebasin_cli.errors import NotFiniteError
from rebasin_cli.matching.problem.axis_chains import Site, occurrences
from rebasin_cli.matching.problem.group_families import GroupFamily
from rebasin_cli.spec.binding.bound import BoundGroup
from rebasin_cli.spec.binding.bound_norms import weight_of
from rebasin_cli.symmetry.family_solution import LinearTerm
from rebasin_cli.tensors import TensorSource
from rebasin_cli.tensors.blocks import BoundTensor
from rebasin_cli.tensors.numbers import all_finite

HALF = (torch.float16, torch.bfloat16)
TINY = 1e-300  # instead of a length of zero, by which a cosine would be divided
Place = tuple[str, int]  # a block: the first name of its tensor, and its offset


def load_voting(
    tensor: BoundTensor,
    model: TensorSource,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Tensor:
    """Return a tensor that votes, on a device. Raises NotFiniteError."""
    values = tensor.load(model).to(device, dtype)
    if not all_finite(values):
        raise NotFiniteError(f"tensor {key_of(tensor)!r} holds NaN or infinity")
    return values


def product_dtype(tensors: Iterable[BoundTensor], models: Sequence[TensorSource]) -> torch.dtype:
    """Return the dtype of products and maps: float32 if all votes have 16 bits, else float64."""
    names = [name for tensor in tensors for name in tensor.members]
    half = all(model.info(name).dtype in HALF for model in models for name in names)
    return torch.float32 if half else torch.float64


def key_of(tensor: BoundTensor) -> str:
    return tensor.members[0]


def place_of(site: Site) -> Place:
    return key_of(site.tensor), site.block.offset


def tensors_at(sites: Iterable[Site]) -> list[BoundTensor]:
    """Return the tensors of some blocks, each once."""
    return list({key_of(site.tensor): site.tensor for site in sites}.values())


def terms_of(
    site: Site, family: GroupFamily, groups: Mapping[str, BoundGroup], pair: tuple[Tensor, Tensor]
) -> Iterator[LinearTerm]:
    """Yield what a block says of a family: one term for each time that it occurs there.

    pair: the values of the block in both models, the reference first.
    """
    owners = site.block.groups
    for axes in occurrences(owners, family.root, groups):
        rest = [k for k in range(len(owners)) if k not in axes]
        mine, theirs = (_lined_up(values, axes, rest) for values in pair)
        yield LinearTerm(tuple(owners[k] or "" for k in axes), mine, theirs)


def _lined_up(values: Tensor, axes: Sequence[int], rest: Sequence[int]) -> Tensor:
    head = [values.shape[k] for k in axes]
    return values.permute(*axes, *rest).reshape(*head, -1)


def weigh(lengths: Mapping[Place, tuple[float, float]]) -> dict[Place, float]:
    """Return 1 / (|A| |B|) of every block, 0 where one has nothing in it. lengths: |A| and |B|.

    A bias takes that of the rows of its matrix that it is added to: by itself, small and nearly
    zero as it may be, it would count as much as they do.
    """
    by_tensor: dict[str, list[Place]] = {}
    for place in lengths:
        by_tensor.setdefault(place[0], []).append(place)
    found = {}
    for key, places in by_tensor.items():
        matrix = by_tensor.get(weight_of(key), places)
        alike = matrix if len(matrix) == len(places) else places
        for place, measure in zip(places, alike, strict=True):
            mine, theirs = lengths[measure]
            size = mine * theirs
            found[place] = 1 / size if size > 0 else 0.0
    return found
