"""Headers and blocks for tests: what a checkpoint would say, and what a spec makes of it."""

import re
from itertools import product
from math import prod

import pytest
import torch

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Block


def infos(shapes, dtypes=()):
    """Return headers of float32 tensors; dtypes: the ones that are not, by name."""
    dtypes = dict(dtypes)
    return {
        name: TensorInfo(name, tuple(shape), dtypes.get(name, torch.float32))
        for name, shape in shapes.items()
    }


def spec_text(tensors, head=""):
    return f"rebasin: 1\n{head}tensors:\n" + "".join(f"  {line}\n" for line in tensors)


def bound(tensors, shapes, *, head="", dtypes=(), **options):
    spec = parse(spec_text(tensors, head), source="s.yaml")
    return bind(spec, infos(shapes, dtypes), **options)


def group_shapes(bound_spec):
    return {name: group.shape for name, group in bound_spec.groups.items()}


def blocks_of(bound_spec, name):
    (tensor,) = [t for t in bound_spec.tensors if name in t.members]
    return tensor.blocks


def dims(block):
    """Return the block's dimensions as a text: `head.0:4 qk.0:8 16`."""
    return " ".join(f"{d.group}:{d.size}" if d.group else str(d.size) for d in block.dims)


def positions(block: Block):
    """Return the offsets that a block reads, in order, computed without torch."""
    steps = [range(0, dim.size * dim.stride, dim.stride) for dim in block.dims]
    return [block.offset + sum(place) for place in product(*steps)]


def covers_exactly(tensor):
    found = sorted(place for block in tensor.blocks for place in positions(block))
    return found == list(range(prod(tensor.shape)))


def head(**declarations):
    """Return the option `head` of `bound`: top-level keys and their YAML."""
    return {"head": "".join(f"{key}: {value}\n" for key, value in declarations.items())}


def check_refusal(row):
    """Bind (tensors, shapes, options) and check the one problem: place, what, detail, hint."""
    tensors, shapes, options, where, what, detail, hint = row
    place = f"s.yaml:{where}: " if where else "s.yaml: "
    with pytest.raises(SpecError, match=re.escape(place + what)) as caught:
        bound(tensors, shapes, **options)
    (problem,) = caught.value.problems
    assert detail in problem.detail
    assert hint in problem.hint
    assert problem.excerpt.count("^") >= bool(where)
