"""At which depth each bias of a network stands: which weights lie between the input and it.

Where a network is positively homogeneous (scaling all weights by c > 0 and the biases of depth h by
c^h scales what is at depth h by c^h), averaging shrinks features and biases differently, and a
bias can be calibrated by its depth. At a sum of branches of different depth the stream keeps the
smallest: what a skip connection carries is not shrunk by the branch beside it.

Every value on the way has the form f(c x) = c f(x) for c > 0, or the walk refuses: norms, sigmoids,
GELU and softmax are not of it, nor are constants that are added and products of two values that
both depend on the input, which are scaled by c^2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from rebasin_cli.errors import UsageError
from rebasin_cli.tracer.operators import facts
from rebasin_cli.tracer.recording.record import Call, Record, Value, live

_PRODUCT = "a product or quotient of two values that both depend on the input"
_SHOWN = 5  # problems in a message

Path = tuple[str, ...]  # names of weights, from the input


@dataclass
class _BiasWalk:
    """What is known while the calls are gone through.

    paths: of what depends on the input. names: parameters, by their views too.
    """

    paths: dict[Value, Path] = field(default_factory=dict)
    names: dict[Value, str] = field(default_factory=dict)
    biases: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def bias(self, name: str, path: Path) -> None:
        """Note a bias; one that is used at two depths would need two factors."""
        known = self.biases.setdefault(name, path)
        if len(known) != len(path):
            self.problem(f"{name} is used at depths {len(known)} and {len(path)}")

    def shortest(self, values: Sequence[Value]) -> Path:
        return min((self.paths[value] for value in values), key=len)

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def refuse(self, call: Call, why: str) -> None:
        paths = [self.paths[value] for value in call.operands if value in self.paths]
        layers = dict.fromkeys(path[-1] for path in paths if path)
        where = f" after {', '.join(layers)}" if layers else ""
        self.problem(f"{call.name.removesuffix('_')}{where}: {why}")


def paths_to_biases(record: Record) -> dict[str, Path]:
    """Return the weights up to every bias of a recorded model, by its name, its layer's the last.

    A parameter that is added elsewhere, as positions are, counts as a bias of what it is added to.
    Raises UsageError for what is not positively homogeneous, naming operators and layers.
    """
    walk = _BiasWalk()
    for value in _sources(record):
        kind, _, name = value.source.partition(" ")
        if kind == "parameter":
            walk.names[value] = name
        elif kind == "input":
            walk.paths[value] = ()
    for call in live(record, list(record.outputs.values())):
        _step(walk, call)
    if walk.problems:
        raise UsageError(
            "calibrate is not valid for this network: not all of it is positively homogeneous",
            detail="\n".join(walk.problems[:_SHOWN]),
            hint="`rescale` needs data, and no such assumption",
        )
    return walk.biases


def _sources(record: Record) -> Iterable[Value]:
    operands = (value for call in record.calls for value in call.operands)
    return dict.fromkeys([*record.tensors.values(), *operands, *record.outputs.values()])


def _step(walk: _BiasWalk, call: Call) -> None:
    """Give the results of a call their path."""
    places = facts(call.name).layer
    moving = [value for value in call.operands if value in walk.paths]
    held = [value for value in call.operands if value in walk.names]
    if not moving and not held:
        return
    if not moving:
        _of_parameters(walk, call, held)
    elif places is not None:
        _layer(walk, call, places)
    elif facts(call.name).joins:
        _joined(walk, call, moving, held)
    else:
        _alone(walk, call, moving, held)


def _layer(walk: _BiasWalk, call: Call, places: tuple[int, int, int | None]) -> None:
    read, weight, bias = (call.args[k] if k is not None else None for k in places)
    if isinstance(read, Value) and read in walk.names and weight in walk.paths:
        read, weight = weight, read  # a weight from the left
    if read not in walk.paths or weight not in walk.names:
        known = [value for value in call.operands if value in walk.paths]
        walk.refuse(call, _PRODUCT)
        _settle(walk, call, walk.shortest(known) if known else ())
        return
    path = (*walk.paths[read], walk.names[weight])
    if isinstance(bias, Value) and bias in walk.names:
        walk.bias(walk.names[bias], path)
    _settle(walk, call, path)


def _of_parameters(walk: _BiasWalk, call: Call, held: Sequence[Value]) -> None:
    """Follow views of one parameter, and rows of it that are always the same."""
    rows = facts(call.name).moves or call.name == "embedding"
    if rows and len(held) == 1:
        for result in (result for result in call.results if result is not None):
            walk.names[result] = walk.names[held[0]]
        return
    walk.refuse(call, f"computes with {', '.join(walk.names[value] for value in held)}")


def _joined(walk: _BiasWalk, call: Call, moving: Sequence[Value], held: Sequence[Value]) -> None:
    """Give a sum the path of its largest summand; parameters in it are biases at that depth."""
    path = walk.shortest(moving)
    for value in held:
        walk.bias(walk.names[value], path)
    others = [v for v in call.operands if v not in walk.paths and v not in walk.names]
    if any(map(_not_zero, [*others, *_numbers(call)])):
        walk.refuse(call, "a constant that is not zero")
    _settle(walk, call, path)


def _alone(walk: _BiasWalk, call: Call, moving: Sequence[Value], held: Sequence[Value]) -> None:
    """Let an operator on one value pass its path on, if it is positively homogeneous in it."""
    known = facts(call.name)
    divides = call.name.removesuffix("_") == "div"
    if not (known.moves or known.homogeneous):
        walk.refuse(call, "not positively homogeneous")
    elif len(moving) > 1 or (divides and call.args[0] is not moving[0]):
        walk.refuse(call, _PRODUCT)
    elif held:
        walk.refuse(call, f"multiplies by {walk.names[held[0]]}, which is not a layer's weight")
    elif not _through_zero(call):
        walk.refuse(call, "a bound or filling that is not zero")
    _settle(walk, call, walk.shortest(moving))


def _settle(walk: _BiasWalk, call: Call, path: Path) -> None:
    for value in (*call.results, *call.written):
        if value is not None:
            walk.paths[value] = path


def _through_zero(call: Call) -> bool:
    """Return whether an operator with a bound keeps the sign of a scale.

    max(c x, b) = c max(x, b) for all c > 0 only where b is 0, and likewise for what is filled in.
    """
    lower = call.arg("min") if call.has("min") else None
    upper = call.arg("max") if call.has("max") else None
    filling = call.arg("value") if call.has("value") else None
    return all(given in (None, 0) for given in (lower, upper, filling))


def _numbers(call: Call) -> list[object]:
    """Return the plain numbers that an operator adds; those of others say along which axis."""
    added = call.args[:2] if torch.Tag.pointwise in call.op.tags else ()
    return [given for given in added if isinstance(given, int | float)]


def _not_zero(operand: object) -> bool:
    if isinstance(operand, Value):
        return operand.data is None or bool(operand.data.any())
    return bool(operand)
