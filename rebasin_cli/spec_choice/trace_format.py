"""A traced model as a value, and as the JSON text that the cache keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from rebasin_cli.json_text import read_json
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import Entry, Spec
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import TensorInfo, dtype_name
from rebasin_cli.tensors.blocks import Window
from rebasin_cli.tracer.derivation.derive import FixedAxis
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.points.points import Point
from rebasin_cli.tracer.proof.proof import Proof
from rebasin_cli.tracer.proof.unproved import Doubt

SOURCE = "traced"
_MADE = {"spec", "explicit", "bound", "infos", "fixed", "returned", "points", "proof", "doubt"}
_PLAIN = tuple(field.name for field in fields(Trace) if field.name not in _MADE)  # words, counts


@dataclass(frozen=True)
class TracedModel:
    """The trace of a target, and how files name its tensors.

    spec: in the names of files. windows: the names that its library writes, where they are not the
    model's own. ignored: expressions for tensors of old files that the model has no use for.
    """

    name: str
    trace: Trace
    spec: Spec
    windows: Mapping[str, Window]
    ignored: tuple[str, ...]


def dump_model(model: TracedModel, *, sources: Mapping[str, str]) -> str:
    """Return a traced model as JSON, with the digests of files; the specs in it are YAML text."""
    windows = [[n, w.source, w.shape, w.strides, w.offset] for n, w in model.windows.items()]
    record = {
        "name": model.name,
        "sources": sources,
        "files": dump(model.spec),
        "windows": windows,
        "ignored": model.ignored,
    }
    return json.dumps({**record, **_record(model.trace)})


def load_model(text: str) -> TracedModel:
    """Return what `dump_model` wrote; raises KeyError and the like if it is something else."""
    record: dict[str, Any] = read_json(text)
    windows = {
        name: Window(source, tuple(shape), tuple(strides), offset)
        for name, source, shape, strides, offset in record["windows"]
    }
    spec = parse(record["files"], source=SOURCE)
    return TracedModel(record["name"], _trace(record), spec, windows, tuple(record["ignored"]))


def _record(trace: Trace) -> dict[str, Any]:
    proof = trace.proof
    plain = {name: getattr(trace, name) for name in _PLAIN}
    return {
        **plain,
        "spec": dump(trace.spec),
        "explicit": dump(trace.explicit),
        "infos": [[i.name, i.shape, dtype_name(i.dtype)] for i in trace.infos.values()],
        "fixed": [asdict(axis) for axis in trace.fixed],
        "returned": {n: _entry_text(entry) for n, entry in trace.returned.items()},
        "points": {moment: [_spot(p) for p in found] for moment, found in trace.points.items()},
        "proof": {**asdict(proof), "dtype": dtype_name(proof.dtype)} if proof else None,
        "doubt": asdict(trace.doubt) if trace.doubt else None,
    }


def _trace(record: Mapping[str, Any]) -> Trace:
    infos = {n: TensorInfo(n, tuple(shape), _dtype(d)) for n, shape, d in record["infos"]}
    explicit, proof = parse(record["explicit"], source=SOURCE), record["proof"]
    plain = {name: record[name] for name in _PLAIN}
    tuples = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    return Trace(
        **{
            **plain,
            **tuples,
            "spec": parse(record["spec"], source=SOURCE),
            "explicit": explicit,
            "bound": bind(explicit, infos, ties=record["ties"]),
            "infos": infos,
            "fixed": tuple(FixedAxis(**axis) for axis in record["fixed"]),
            "returned": {name: _entry(text) for name, text in record["returned"].items()},
            "points": {m: tuple(map(_point, found)) for m, found in record["points"].items()},
            "proof": Proof(**{**proof, "dtype": _dtype(proof["dtype"])}) if proof else None,
            "doubt": Doubt(**record["doubt"]) if record["doubt"] else None,
        }
    )


def _spot(point: Point) -> list[Any]:
    place = point.operator, point.turn, point.calls, point.operand
    return [*place, point.groups, _entry_text(point.axes)]


def _point(row: Sequence[Any]) -> Point:
    operator, turn, calls, operand, groups, axes = row
    return Point(operator, turn, calls, operand, tuple(groups), _entry(axes))


def _entry_text(entry: Entry) -> str:
    """Return axes as the text of a spec that has nothing else."""
    return dump(Spec(tensors={"axes": entry}))


def _entry(text: str) -> Entry:
    return parse(text, source=SOURCE).tensors["axes"]


def _dtype(word: str) -> torch.dtype:
    dtype = getattr(torch, word)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(word)
    return dtype
