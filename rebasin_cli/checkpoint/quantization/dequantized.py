"""Weight files of codes and scales, read as the weights that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.checkpoint.failures import cap_problems
from rebasin_cli.checkpoint.quantization.quantized import Codes, find_codes
from rebasin_cli.checkpoint.weight_file import WeightFile
from rebasin_cli.errors import CheckpointError, Problem
from rebasin_cli.tensors import TensorInfo, TensorSource

SETTINGS = "quantization_config"  # in config.json
BLOCK = 128  # of DeepSeek's scales, where no config.json says otherwise
LARGEST_CODE = 127  # bitsandbytes keeps the largest value of a row where others keep a step


class Dequantised:
    """A weight file whose codes are multiplied by their scales as they are loaded.

    Scales are not among its tensors; they may lie in another file.
    """

    def __init__(self, inner: WeightFile, all_codes: _AllCodes) -> None:
        self.inner, self._all = inner, all_codes
        self.format, self.file, self.metadata = inner.format, inner.file, inner.metadata
        self.ties, self.dropped, self.extra = inner.ties, inner.dropped, inner.extra
        self.rest = inner.rest.without_parts
        self.parts: Mapping[str, TensorSource] = {}
        self.infos = {
            name: all_codes.info(name) if name in all_codes.codes else info
            for name, info in inner.infos.items()
            if name not in all_codes.others
        }

    def load(self, name: str) -> Tensor:
        tensor = self.inner.load(name)
        return self._all.values(name, tensor) if name in self._all.codes else tensor


def dequantize_files(
    files: Sequence[WeightFile], config: Mapping[str, Any], where: str
) -> Sequence[WeightFile]:
    """Return the files with plain weights for codes; as they are if there are none.

    Raises CheckpointError for codes that take more than scales to be read.
    """
    all_codes = _AllCodes(files, config)
    problems = [
        Problem(
            f"tensor {codes.name!r} cannot be dequantised here: {codes.kind}",
            where=where,
            hint="save it as plain weights with the library that made it",
        )
        for codes in all_codes.codes.values()
        if all_codes.sizes(codes) is None
    ]
    if problems:
        raise CheckpointError(*cap_problems(problems))
    return [Dequantised(file, all_codes) for file in files] if all_codes.codes else files


class _AllCodes:
    """The codes of all files of one checkpoint. others: the names of what gives them meaning."""

    def __init__(self, files: Sequence[WeightFile], config: Mapping[str, Any]) -> None:
        self._owner = {name: file for file in files for name in file.infos}
        self._infos = {name: file.infos[name] for name, file in self._owner.items()}
        self._config = config
        self.codes = {codes.name: codes for codes in find_codes(self._infos, config)}
        self.others = frozenset(n for codes in self.codes.values() for n in codes.others)

    def info(self, name: str) -> TensorInfo:
        """Return name, shape and dtype of the weights that codes stand for.

        Their dtype is the one that config.json names, else that of the scales.
        """
        scale = self._infos[self.codes[name].scale or name].dtype
        wide = scale if scale.is_floating_point and scale.itemsize > 1 else torch.float32
        words = (self._config.get(key) for key in ("dtype", "torch_dtype"))
        named = [getattr(torch, str(word), None) for word in words if word]
        floats = (d for d in named if isinstance(d, torch.dtype) and d.is_floating_point)
        return TensorInfo(name, self._infos[name].shape, next(floats, wide))

    def sizes(self, codes: Codes) -> tuple[int, ...] | None:
        """Return how many codes share a scale along each axis, None if that is not known."""
        if codes.scale is None:
            return None
        settings = self._config.get(SETTINGS)
        given = settings.get("weight_block_size") if isinstance(settings, Mapping) else None
        known = given if isinstance(given, list) else ()
        return block_sizes(
            self._infos[codes.name].shape, self._infos[codes.scale].shape, known=known
        )

    def values(self, name: str, tensor: Tensor) -> Tensor:
        """Return the weights that codes stand for."""
        codes = self.codes[name]
        sizes = self.sizes(codes)
        assert codes.scale is not None and sizes is not None, "checked when it was opened"
        scale = self._owner[codes.scale].load(codes.scale).to(torch.float32)
        step = spread(scale, tuple(tensor.shape), sizes)
        if codes.scale.endswith(".SCB"):
            step = step / LARGEST_CODE
        return (tensor.to(torch.float32) * step).to(self.info(name).dtype)


def block_sizes(
    codes: Sequence[int], scale: Sequence[int], *, known: Sequence[int] = ()
) -> tuple[int, ...] | None:
    """Return how many codes share a scale along each axis, None if the shapes do not say.

    codes, scale: shapes; scales of fewer axes are those of the first ones. known: the sizes of
    the last axes, if a config says so.
    """
    if all(steps == 1 for steps in scale):
        return tuple(codes)
    if len(scale) > len(codes):
        return None
    shape = (*scale, *(1 for _ in codes[len(scale) :]))
    given = (*(0 for _ in codes[len(known) :]), *known)
    found = tuple(map(_block_size, codes, shape, given))
    return found if all(found) else None


def _block_size(whole: int, steps: int, given: int) -> int:
    """Return the length of the pieces of an axis, of which the last may be shorter; 0: unknown."""
    if steps == 1:
        return max(whole, 1)
    guesses = (given, 1, BLOCK, whole // steps if steps and whole % steps == 0 else 0)
    return next((n for n in guesses if n > 0 and -(-whole // n) == steps), 0)


def spread(scale: Tensor, shape: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Return scales that can be multiplied by codes: each repeated along its block."""
    if scale.numel() == 1:
        return scale.reshape(())
    whole = scale.reshape(*scale.shape, *(1 for _ in shape[scale.dim() :]))
    for axis, (size, length) in enumerate(zip(sizes, shape, strict=True)):
        if size < length:
            whole = whole.repeat_interleave(size, axis).narrow(axis, 0, length)
    return whole
