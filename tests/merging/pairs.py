"""Random pairs of checkpoints of all kinds, and the law that ends of a line are the models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from rebasin_cli.checkpoint.header import DTYPES
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_tensors
from rebasin_cli.commands.lerp.command import LerpRequest
from rebasin_cli.commands.lerp.plan import plan_lerp
from rebasin_cli.commands.lerp.run import run_lerp
from rebasin_cli.commands.merge.command import MergeRequest
from rebasin_cli.commands.merge.plan import plan_merge
from rebasin_cli.commands.merge.run import run_merge
from rebasin_cli.errors import RebasinError
from rebasin_cli.options.output import Output
from rebasin_cli.progress import silent

State = dict[str, Tensor]

SHAPES = ((), (0,), (1,), (3,), (2, 3))
ONLY_TORCH = (torch.complex128,)
CONTAINERS = ("safetensors", "pt", "nested", "folder", "shards", "bin shards")
# What is asked for, and which of the two models it has to be.
ENDS = {"lerp --at 0": 0, "lerp --at 1": 1, "merge -w 1,0": 0, "merge -w 0,1": 1}


@dataclass(frozen=True)
class Model:
    """The tensors of a checkpoint, which of them are one (alias -> name), and its form."""

    state: State
    ties: Mapping[str, str]
    container: str


def drawn_pair(random: Random) -> tuple[Model, Model]:
    """Return two models with the same names and shapes, and often the same dtypes."""
    names = [f"t{k}" for k in range(random.randint(1, 5))]
    shapes = {name: random.choice(SHAPES) for name in names}
    a, b = (random.choice(CONTAINERS) for _ in "ab")
    dtypes = [*DTYPES.values(), *ONLY_TORCH] if {a, b} <= _TORCH else list(DTYPES.values())
    of_a = {name: random.choice(dtypes) for name in names}
    alike = {n: d if random.random() < 0.7 else random.choice(dtypes) for n, d in of_a.items()}
    first = {name: values(random, shapes[name], of_a[name]) for name in names}
    second = {name: values(random, shapes[name], alike[name]) for name in names}
    for name in names:
        if random.random() < 0.2 and of_a[name] == alike[name]:
            second[name] = first[name].clone()
    return _tied(random, first, a), _tied(random, second, b)


_TORCH = {"pt", "nested", "bin shards"}


def values(random: Random, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return finite numbers that a dtype has; small integers, so that narrow types hold them."""
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    if dtype.is_complex:
        parts = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        return torch.view_as_complex(parts).to(dtype)
    if dtype.is_floating_point:
        numbers = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
        return (numbers.abs() + 0.5 if dtype.itemsize == 1 else numbers).float().to(dtype)
    high = 2 if dtype == torch.bool else random.choice((3, 120))
    return torch.randint(0, high, tuple(shape), generator=generator).to(dtype)


def _tied(random: Random, state: State, container: str) -> Model:
    """Return a model in which some tensors of one kind are one, where the format has that."""
    ties: dict[str, str] = {}
    names = list(state)
    for name, other in pairwise(names):
        same = state[name].shape == state[other].shape and state[name].dtype == state[other].dtype
        free = container in ("pt", "nested") and name not in ties and state[name].numel()
        if same and free and random.random() < 0.6:
            state[other] = state[name]
            ties[other] = name
    return Model(state, ties, container)


def save(model: Model, path: Path) -> Path:
    """Write a model in its form, and return its path."""
    if model.container in ("pt", "nested"):
        path = path.with_suffix(".pt")
        torch.save({"model": model.state} if model.container == "nested" else model.state, path)
        return path
    if model.container == "safetensors":
        path = path.with_suffix(".safetensors")
        write_tensors(path, model.state, metadata={}, overwrite=True)
        return path
    path.mkdir(exist_ok=True)
    if model.container == "folder":
        write_tensors(path / "model.safetensors", model.state, metadata={}, overwrite=True)
        return path
    ending = ".bin" if model.container == "bin shards" else ".safetensors"
    stem = "pytorch_model" if ending == ".bin" else "model"
    names = list(model.state)
    shards = {f"{stem}-{k + 1}{ending}": names[k::2] for k in range(min(2, len(names)))}
    for file, held in shards.items():
        part = {name: model.state[name] for name in held}
        if ending == ".bin":
            torch.save(part, path / file)
        else:
            write_tensors(path / file, part, metadata={}, overwrite=True)
    weight_map = {name: file for file, held in shards.items() for name in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (path / f"{stem}{ending}.index.json").write_text(json.dumps(index))
    return path


def end(a: Path, b: Path, how: str, folder: Path) -> Path:
    """Write an end of the line between two files, and return its path."""
    ending = a.suffix if a.is_file() else ""
    out = folder / f"out-{list(ENDS).index(how)}{ending}"
    output = Output(out=str(out), force=True)
    if how.startswith("lerp"):
        list(run_lerp(plan_lerp(LerpRequest([a, b], at=[float(how[-1])], output=output)), silent))
    else:
        weights = [float(word) for word in how.rpartition(" ")[2].split(",")]
        plan = plan_merge(MergeRequest([a, b], "none", weights=weights, output=output))
        list(run_merge(plan, silent))
    return out


def check_ends(pair: tuple[Model, Model], folder: Path) -> dict[str, str]:
    """Return, for each end, `equal` or the sentence with which it was refused, names left out.

    Raises AssertionError for an end that is another model, or a refusal that names no tensor.
    """
    a, b = (save(model, folder / name) for model, name in zip(pair, "ab", strict=True))
    found = {}
    for how, which in ENDS.items():
        try:
            out = end(a, b, how, folder)
        except RebasinError as error:
            assert re.search(r"\bt\d\b", str(error)), f"names no tensor: {error}"
            found[how] = _sentence(error)
        else:
            found[how] = "equal"
            assert_equals(out, pair[which].state, like=pair[0].state)
    return found


def assert_equals(path: Path, expected: State, like: State) -> None:
    """Compare a file with a model in the dtypes of another, bit by bit, under every name."""
    with open_checkpoint(path) as file:
        for name, tensor in expected.items():
            assert name in file.names(), f"{name} is gone"
            found, wanted = file.load(name), tensor.to(like[name].dtype)
            assert found.dtype == wanted.dtype and found.shape == wanted.shape, name
            assert torch.equal(_bits(found), _bits(wanted)), name


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _sentence(error: RebasinError) -> str:
    """Return the first sentence of an error without names, numbers and dtypes."""
    text = re.sub(r"'t\d'|/\S+|\d+ ", "_ ", error.problems[0].what)
    return re.sub(r"\b(b?float|u?int|complex|bool)\w*", "_", text)
