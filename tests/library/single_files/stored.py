"""What a file in an original layout stores of the tensors that a library names otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rebasin_cli.spec.language.model import (
    Axes,
    Entry,
    Fixed,
    Norm,
    Spec,
    Split,
    Sum,
    concatenation,
)
from rebasin_cli.tensors import TensorInfo

WHOLE = "whole"
CONVOLUTION = "convolution"  # of one pixel, where the library has a matrix
TRANSPOSED = "transposed"
SWAPPED = "swapped"  # the halves: scale before shift in the library, behind it in the file


@dataclass(frozen=True)
class Place:
    """Where one tensor of a library stands in a file.

    name: of the stored tensor. part: which of the parts that it joins along its first axis.
    form: what else is done to the tensor.
    """

    name: str
    part: int = 0
    form: str = WHOLE


@dataclass(frozen=True)
class Layout:
    """What a file stores of some models.

    places: names of tensors -> where it has them. path: what it calls the modules that groups are
    named after. optional: starts of names that files may lack.
    """

    places: Mapping[str, Place]
    path: Callable[[str], str]
    optional: tuple[str, ...] = ()

    def sources(self) -> dict[str, list[str]]:
        """Return stored name -> the tensors that it joins, in their order."""
        found: dict[str, list[str]] = {}
        for name, place in self.places.items():
            found.setdefault(place.name, []).append(name)
        return {s: sorted(names, key=lambda n: self.places[n].part) for s, names in found.items()}

    def stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a library as the file has them, one name of those that are tied."""
        return {
            stored: torch.cat([_formed(state[n], self.places[n].form) for n in names]).contiguous()
            for stored, names in self.sources().items()
            if state.keys() >= {*names}
        }

    def restored(self, file: Mapping[str, Tensor], rows: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the tensors of a library from those of a file. rows: lengths of first axes."""
        found = {}
        for stored, names in self.sources().items():
            whole = len(names) == 1
            parts = [file[stored]] if whole else file[stored].split([rows[n] for n in names])
            for name, part in zip(names, parts, strict=True):
                form = self.places[name].form
                pixel = form == CONVOLUTION and part.dim() > 1
                found[name] = part[..., 0, 0] if pixel else _formed(part, form)
        return found

    def infos(self, known: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """Return the headers of what `stored` returns."""
        empty = {n: torch.empty(known[n].shape, dtype=known[n].dtype, device="meta") for n in known}
        made = self.stored(empty)
        return {n: TensorInfo(n, tuple(t.shape), t.dtype) for n, t in made.items()}

    def spec(self, spec: Spec) -> Spec:
        """Return a spec that names each tensor of a library for the names in the file."""
        tensors: dict[str, Entry] = {}
        for stored, names in self.sources().items():
            said = [
                _entry(spec.tensors[n], self.places[n].form) for n in names if n in spec.tensors
            ]
            if said:
                assert len(said) == len(names), f"{stored}: {names}"
                tensors[f"{stored}{'?' * stored.startswith(self.optional)}"] = _joined(said)

        def listed(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(self.places[name].name for name in names))

        return replace(
            spec,
            tensors=tensors,
            buffers=listed(spec.buffers),
            transposed=listed(spec.transposed),
            norms={self.places[n].name: self._norm(norm) for n, norm in spec.norms.items()},
            text="",
            places={},
        )

    def _norm(self, norm: Norm) -> Norm:
        readers, writers = (
            tuple(dict.fromkeys(self.places[n].name for n in names))
            for names in (norm.readers, norm.writers)
        )
        return replace(norm, readers=readers, writers=writers)


def _formed(tensor: Tensor, form: str) -> Tensor:
    if form == CONVOLUTION and tensor.dim() > 1:
        return tensor[..., None, None]
    if form == TRANSPOSED:
        return tensor.T
    return torch.cat(tensor.chunk(2)[::-1]) if form == SWAPPED else tensor


def _entry(entry: Entry, form: str) -> Entry:
    """Return the axes of what `_formed` makes of a tensor."""
    if form == WHOLE:
        return entry
    assert not isinstance(entry, Split), entry
    if form == TRANSPOSED:
        return entry[::-1]
    if form == CONVOLUTION:
        return (*entry, Fixed(1), Fixed(1)) if len(entry) > 1 else entry
    first = entry[0]
    if isinstance(first, Sum):
        half = len(first.segments) // 2
        assert first.segments[:half] == first.segments[half:], entry
    else:
        assert isinstance(first, Fixed), entry
    return entry


def _joined(entries: Sequence[Entry]) -> Entry:
    """Return the axes of tensors that are joined along the first one."""
    if len(entries) == 1:
        return entries[0]
    whole: list[Axes] = [entry for entry in entries if not isinstance(entry, Split)]
    assert len(whole) == len(entries), entries
    assert all(entry[1:] == whole[0][1:] for entry in whole), entries
    return (concatenation([entry[0] for entry in whole]), *whole[0][1:])
