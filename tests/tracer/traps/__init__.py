"""Small networks for the traps of tracing, and what is claimed of each of them.

A claim is written by hand: the groups with their sizes and parents, and what every axis is made
of, in the spec language with any names. `check` holds the tracer to it; `harm` shows that another
spec of the same network, the one that falls into the trap, changes what the network computes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.models.module_weights import widen_model
from rebasin_cli.models.subject import Example
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.binding.same_symmetry import same_symmetry
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors.trees import map_leaves
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from rebasin_cli.tracer.model_trace import Trace, without_classes
from rebasin_cli.tracer.proof.proof import Trial, random_permutations
from rebasin_cli.tracer.trace import trace

EXACT = 1e-9  # relative, in float64
WRONG = 1e-3  # relative; what a wrong permutation does at least
SEEDS = (1, 2, 3)
HIDDEN = "  a.{weight,bias}: [h]\n  b.weight: [~, h]\n"  # of two layers with nothing between


class Net(nn.Module):
    """A network written in one expression: its members by name, and what it does with them.

    Modules and parameters become members, tensors buffers, other values attributes.
    """

    def __init__(self, run: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.run = run
        for name, member in members.items():
            if isinstance(member, Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def weight(*shape: int) -> nn.Parameter:
    """Return a parameter of normal noise."""
    generator = torch.Generator().manual_seed(sum(shape))
    return nn.Parameter(torch.randn(*shape, generator=generator) / shape[-1] ** 0.5)


def noise(*shape: int) -> Tensor:
    """Return an input of normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(17))


def ids(*shape: int, below: int) -> Tensor:
    """Return random indices."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(17))


@dataclass(frozen=True)
class Case:
    """A network and calls of it, of two sizes where its inputs may have two."""

    net: nn.Module
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]

    def traced(self, choices: Choices = Choices()) -> Trace:  # noqa: B008 frozen
        examples = tuple(Example(args, kwargs) for args, kwargs in self.calls)
        return trace(subject_of(self.net, examples=lambda _: examples), choices)


def case(net: nn.Module, *calls: Tensor | tuple[Any, ...] | dict[str, Any]) -> Case:
    """Return a network with calls: a tensor is the only argument, a tuple or a dict all of them."""
    return Case(net, tuple(map(_call, calls)))


def _call(given: Tensor | tuple[Any, ...] | dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    if isinstance(given, dict):
        return (), given
    return (given if isinstance(given, tuple) else (given,)), {}


def rows(net: nn.Module, *shape: int) -> Case:
    """Return a network with two inputs of noise: this shape, and one more along the first axis."""
    return case(net, noise(*shape), noise(shape[0] + 1, *shape[1:]))


def convolutions(run: Callable[..., Any], **members: Any) -> Case:
    """Return a network on images of 3 channels and 6 x 6 places."""
    return rows(Net(run, **members), 2, 3, 6, 6)


def chain(**members):
    """Return a network that applies its members in their order."""

    def run(m, x):
        for name in members:
            x = getattr(m, name)(x)
        return x

    return convolutions(run, **members)


def check(
    given: Case,
    groups: str,
    tensors: str,
    *,
    choices: Choices = Choices(),  # noqa: B008 frozen
) -> Trace:
    """Trace a network, and compare the result with a claim; return the trace.

    groups: `NAME SIZE`, `NAME SIZE per PARENT`, `NAME SIZE fixed` or both, separated by semicolons.
    tensors: what each tensor is made of, as a spec says it; those not named are fixed.
    """
    found = given.traced(choices)
    assert found.proof is not None
    assert (found.proof.refuted, found.proof.difference <= EXACT) == ({}, True), _shown(found)
    claimed, permuted = _bound(found, groups, tensors), without_classes(found).bound
    assert _sizes(permuted) == _sizes(claimed), _shown(found)
    assert same_symmetry(permuted, claimed), _shown(found)
    assert _moved(given, found, found.bound) <= EXACT, _shown(found)
    return found


def harm(given: Case, found: Trace, groups: str, tensors: str) -> float:
    """Return how far a wrong spec moves the outputs, relative to their scale."""
    return _moved(given, found, _bound(found, groups, tensors))


def _bound(found: Trace, groups: str, tensors: str) -> BoundSpec:
    text = f"rebasin: 1\ngroups:\n{_declared(groups)}\ntensors:\n{tensors}"
    claim = replace(
        parse(text),
        buffers=found.explicit.buffers,
        transposed=found.explicit.transposed,
    )
    return bind(claim, found.infos, ties=found.ties)


def _declared(groups: str) -> str:
    lines = []
    for group in groups.split(";"):
        name, size, *rest = group.split()
        parent = f"per: {rest[rest.index('per') + 1]}, " if "per" in rest else ""
        more = parent + "fixed: true, " * ("fixed" in rest)
        lines.append(f"  {name}: {{size: {size}, {more}one-sided: true}}")
    return "\n".join(lines)


def _sizes(bound: BoundSpec) -> list[tuple[tuple[int, ...], bool]]:
    """Return the sizes of groups after those of their parents, and whether they are fixed."""
    return sorted((group.shape, group.fixed) for group in bound.groups.values())


def _shown(found: Trace) -> str:
    fixed = [(f.tensor, f.axis, f.size, f.reason, "soft" * f.soft) for f in found.fixed]
    return f"{dump(found.explicit)}\n{found.proof}\nfixed: {fixed}\nunused: {found.unused}"


def _moved(given: Case, found: Trace, bound: BoundSpec) -> float:
    net = copy.deepcopy(given.net).eval()
    widen_model(net, torch.float64)
    with torch.no_grad():
        calls: Sequence[Any] = map_leaves(given.calls, Tensor, _double)
        trial = Trial(net, calls, found.outputs)
        return max(trial.difference(bound, random_permutations(bound, seed)) for seed in SEEDS)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def mlp(change, **members):
    """Return a network of two layers with something between them."""
    net = Net(
        lambda m, x: m.b(change(m, m.a(x))), a=nn.Linear(5, 8), b=nn.Linear(8, 3), **members
    )  # fmt: skip
    return rows(net, 3, 5)


def nothing_moves(given, *buffers: str):
    """Trace a network whose units are all fixed, whatever buffers may move; return the trace."""
    found = given.traced(Choices(buffers=buffers))
    assert found.proof is not None
    assert (found.bound.groups, found.proof.refuted) == ({}, {})
    return found
