"""A first spec for a checkpoint: every tensor listed, every axis still fixed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.language.dump import key_text
from rebasin_cli.spec.language.parse import VERSION
from rebasin_cli.spec.language.tensor_names import INDEX
from rebasin_cli.tensors import TensorInfo, dtype_name

# Only whole components: layer.0 and layer.1 repeat, fc1 and fc2 are different layers.
_LAYER = re.compile(rf"(?<![^.]){INDEX}(?![^.])")
_VARIABLES = "ijklmnopq"
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_NAMEABLE = re.compile(r"[^{}\[\]*\x00-\x1f\x7f-\x9f\u2028\u2029]+(?<!\?)")
_HEADER = """\
# A start: every axis is `~`, fixed. Go on like this:
# 1. Give one name to all axes that count the same units. A layer that writes units has their
#    name on axis 0, so do its bias and norms; each layer that reads them has it on axis 1:
#      fc1.weight: [hidden, ~]     fc1.bias: [hidden]     fc2.weight: [~, hidden]
# 2. A name may use the index of its pattern: hidden.{i}, hidden.{i.prev}.
# 3. Axes that nothing may reorder (inputs, classes) stay `~`.
# 4. `rebasin spec check` says what is missing. Tensors stored as (in, out), such as embeddings,
#    are listed under `transposed:`.
"""


def draft(infos: Mapping[str, TensorInfo]) -> str:
    """Return YAML text to start a spec from, with the shape of each tensor as a comment.

    Repeated layers are one pattern where all of them have the same shape. A name with a
    character that patterns give a meaning stands in a comment. Raises SpecError if nothing is
    left to list.
    """
    names = [name for name in infos if _NAMEABLE.fullmatch(name)]
    if not names:
        raise SpecError("the checkpoint has no tensor that a spec could name")
    lines = [f"rebasin: {VERSION}", *_buffers(names), "tensors:"]
    listed = frozenset(names)
    lines += _align_comments(list(_entries(names, infos)))
    lines += [f"  # cannot be named here: {name!r}" for name in infos if name not in listed]
    return _HEADER + "".join(f"{line}\n" for line in lines)


def _buffers(names: Sequence[str]) -> Iterator[str]:
    ends = [end for end in _RUNNING if any(name.endswith(f".{end}") for name in names)]
    if ends:
        patterns = ", ".join(f'"*.{end}"' for end in ends)
        yield f"buffers: [{patterns}]"


def _entries(names: Sequence[str], infos: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    """Yield pattern with entry, and comment, in the order of the checkpoint."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_LAYER.sub("0", name)].append(name)
    order = {name: position for position, name in enumerate(names)}
    found = [part for members in alike.values() for part in _uniform(members, infos, 0)]
    for members in sorted(found, key=lambda members: order[members[0]]):
        info = infos[members[0]]
        axes = ", ".join("~" for _ in info.shape)
        times = f", {len(members)} of them" if len(members) > 1 else ""
        shape = "x".join(map(str, info.shape)) or "scalar"
        kind = dtype_name(info.dtype)
        yield f"  {key_text(_pattern(members))}: [{axes}]", f"{shape} {kind}{times}"


def _uniform(
    members: list[str], infos: Mapping[str, TensorInfo], position: int
) -> Iterator[list[str]]:
    """Yield lists of names that one pattern can stand for, fixing indices from the left."""
    kinds = {(infos[name].shape, infos[name].dtype) for name in members}
    if len(kinds) == 1:
        yield members
        return
    by_index: defaultdict[str, list[str]] = defaultdict(list)
    for name in members:
        by_index[_indices(name)[position]].append(name)
    for part in by_index.values():
        yield from _uniform(part, infos, position + 1)


def _indices(name: str) -> list[str]:
    return _LAYER.findall(name)


def _pattern(members: Sequence[str]) -> str:
    columns = zip(*map(_indices, members), strict=True)
    varies = [len(set(column)) > 1 for column in columns]
    variables = iter(_VARIABLES)
    parts = _LAYER.split(members[0])
    indices = _indices(members[0])
    shown = [f"{{{next(variables)}}}" if v else i for v, i in zip(varies, indices, strict=True)]
    return "".join(a + b for a, b in zip(parts, [*shown, ""], strict=True))


def _align_comments(lines: Sequence[tuple[str, str]]) -> list[str]:
    width = min(60, max(len(entry) for entry, _ in lines))
    return [f"{entry:<{width}}  # {comment}" for entry, comment in lines]
