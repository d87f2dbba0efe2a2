"""Proof by running: permute every group at once and compare what the model returns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rebasin_cli.models.module_weights import renew
from rebasin_cli.permutation import Permutation
from rebasin_cli.permuted import take, take_member
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec, draw_permutations
from rebasin_cli.spec.language.model import (
    Declaration,
    Entry,
    Spec,
    entry_names,
)
from rebasin_cli.tensors import InMemory, TensorInfo
from rebasin_cli.tensors.blocks import Block
from rebasin_cli.tensors.compare import ACCEPTED, relative_difference
from rebasin_cli.tensors.numbers import in_reals, is_floating
from rebasin_cli.tensors.trees import tensors_in
from rebasin_cli.tracer.proof.random_numbers import (
    model_tensors,
    noisy_values,
    random_sum,
    randomise,
)
from rebasin_cli.tracer.proof.unproved import NOT_NUMBERS, ONE_NUMBER, Doubt, without_sizes
from rebasin_cli.tracer.recording.capture import Arguments, named_outputs
from rebasin_cli.tracer.recording.recorder import primitive_kernels
from rebasin_cli.tracer.recording.training_calls import calling

LEAST = 1e-30  # scale of an output: one of zeros that moves at all is not the same
DRAWS = 3  # of other numbers before outputs are said to ignore them: one may round to the same
Expected = Callable[[str, Tensor], Tensor]  # an output's name, and what it was: what it is to be


@dataclass(frozen=True)
class Proof:
    """How far outputs moved under random permutations, relative to their scale.

    difference: the largest over all inputs and chosen outputs. refuted: groups that were dropped
    or lost their parent because the outputs moved, with what was done. on_small: a small copy of
    the architecture was run, whose spec says the same but for sizes.
    """

    difference: float
    dtype: torch.dtype
    examples: int
    refuted: Mapping[str, str]
    on_small: bool = False

    @property
    def holds(self) -> bool:
        return self.difference <= ACCEPTED


class Trial:
    """A real model whose parameters are random, ready to be permuted; the model is changed.

    outputs: names of those that count. returned: what their axes are made of.
    Everything is seeded: two runs are equal.
    """

    def __init__(
        self,
        model: nn.Module,
        calls: Sequence[Arguments],
        outputs: Sequence[str],
        returned: Mapping[str, Entry] | None = None,
    ) -> None:
        self._model, self._calls, self._outputs = model, calls, outputs
        self._returned = returned or {}
        self.dtype = next((p.dtype.to_real() for p in model.parameters()), torch.float64)
        randomise(model, torch.Generator().manual_seed(0))
        self._state = {name: t.clone() for name, t in model_tensors(model).items()}
        self._before = [self._run(call) for call in calls]
        # What one input decides is asked of the smallest one first, and seldom of another.
        self._order = sorted(range(len(calls)), key=lambda k: _positions(calls[k]))

    def difference(self, bound: BoundSpec, permutations: Mapping[str, Permutation]) -> float:
        """Return by how much the outputs move, relative to their scale; then undo everything.

        Outputs that may be permuted are expected to be.
        """
        with self._permuted(bound, permutations) as expected:
            return max((self._gap(k, expected) for k in self._order), default=math.inf)

    def keeps(self, bound: BoundSpec, permutations: Mapping[str, Permutation]) -> bool:
        """Return whether the difference is accepted; one input that moves is enough to tell."""
        with self._permuted(bound, permutations) as expected:
            return all(self._gap(k, expected) <= ACCEPTED for k in self._order)

    def drift(self, base: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> float:
        """Return by how much outputs differ where some tensors are changed, and where some are not.

        Both take the place of the model's own tensors of these names.
        """
        before = self._with(base) if base else self._before
        runs = zip(before, self._with({**base, **changed}), strict=True)
        gaps = (_relative(one[name], two[name]) for one, two in runs for name in one)
        return max(gaps, default=math.inf)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the model, which nothing may write to."""
        return self._state[name]

    def _with(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        with self._changed(tensors.items()):
            return [self._run(call) for call in self._calls]

    @contextmanager
    def _changed(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
        """Write to tensors of the model, one at a time, and undo that at the end."""
        live, touched = model_tensors(self._model), []
        try:
            for name, values in tensors:
                touched.append(name)
                live[name].copy_(values)
            yield
        finally:
            for name in touched:
                live[name].copy_(self._state[name])

    @contextmanager
    def _permuted(
        self, bound: BoundSpec, permutations: Mapping[str, Permutation]
    ) -> Iterator[Expected]:
        """Permute the model, and say what its outputs should be."""
        source = InMemory(self._state)
        moved = (
            (name, take_member(source, tensor, position, permutations))
            for tensor in bound.tensors
            if tensor.groups & permutations.keys()
            for position, name in enumerate(tensor.members)
        )
        with self._changed(moved):
            yield lambda name, values: self._expected(name, values, bound, permutations)

    def _gap(self, number: int, expected: Expected | None = None) -> float:
        """Return by how much the outputs of one call move, or miss what is expected of them."""
        before, after = self._before[number], self._run(self._calls[number])
        wanted = {n: expected(n, v) for n, v in before.items()} if expected else before
        return max((_relative(values, after[name]) for name, values in wanted.items()), default=0.0)

    def _expected(
        self, name: str, values: Tensor, bound: BoundSpec, permutations: Mapping[str, Permutation]
    ) -> Tensor:
        """Return an output as the permutations leave it."""
        entry = self._returned.get(name, ())
        groups = {
            group: bound.groups[group] for group in entry_names(entry) if group in bound.groups
        }
        if all(group.fixed for group in groups.values()):
            return values
        declared = {
            group: Declaration(found.size, (found.parents or (None,))[-1], one_sided=True)
            for group, found in groups.items()
        }
        spec = Spec(tensors={"output": without_sizes(entry)}, groups=declared)
        info = TensorInfo("output", tuple(values.shape), values.dtype)
        (tensor,) = bind(spec, {"output": info}).tensors
        return take(values, tensor, permutations)

    def notices(self, names: Iterable[str]) -> bool:
        """Return whether the outputs move when some tensors change, all of them at once.

        If they do not, these tensors do not reach them, and that they stay is no proof.
        """
        generator = torch.Generator().manual_seed(0)

        # not all by the same: a norm may take that away
        with self._changed((name, noisy_values(self._state[name], generator)) for name in names):
            return any(self._gap(k) > ACCEPTED for k in self._order)

    def doubt(self) -> Doubt | None:
        """Return why nothing can be proved: outputs that are no numbers, or all the same one."""
        rows = [values for run in self._before for values in run.values() if values.numel()]
        if any(bool(values.isnan().any()) for values in rows):
            return NOT_NUMBERS
        varied = any(bool((values != values.flatten()[0]).any()) for values in rows)
        return None if varied else ONE_NUMBER

    def slopes(self, names: Container[str]) -> Iterator[dict[str, Tensor]]:
        """Yield, call by call, how a random sum of the outputs changes with some tensors' numbers.

        By name, contiguous; without those to which no gradient leads.
        """
        live = {
            n: t
            for n, t in model_tensors(self._model).items()
            if n in names and is_floating(t.dtype)
        }
        leaves = {n: t for n, t in live.items() if isinstance(t, nn.Parameter)}
        for k in self._order:
            found = zip(leaves, self._gradients(self._calls[k], leaves.values()), strict=True)
            yield {
                name: in_reals(slope).contiguous().nan_to_num_(0, 0, 0)
                for name, slope in found
                if slope is not None
            }

    def _gradients(self, call: Arguments, leaves: Iterable[nn.Parameter]) -> list[Tensor | None]:
        parameters = list(leaves)
        wanted = [parameter.requires_grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.requires_grad_()
            with primitive_kernels(), torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numbers that are read without their gradient
                total = random_sum(self._outputs_of(call).values())
            return list(torch.autograd.grad(total, parameters, allow_unused=True))
        except Exception:  # the code of any model runs here, and few expect gradients
            return [None] * len(parameters)
        finally:
            for parameter, before in zip(parameters, wanted, strict=True):
                parameter.requires_grad_(before)

    def ignores(self, places: Mapping[str, Sequence[Block]]) -> bool:
        """Return whether no bit of the outputs changes when some blocks of tensors do."""
        return all(self._same_with(places, seed) for seed in range(DRAWS))

    def _same_with(self, places: Mapping[str, Sequence[Block]], seed: int) -> bool:
        generator = torch.Generator().manual_seed(seed)

        def noisy(name: str, blocks: Sequence[Block]) -> Tensor:
            changed = self._state[name].clone(memory_format=torch.contiguous_format)
            for block in blocks:
                here = block.view(in_reals(changed))
                here.copy_(noisy_values(here, generator))
            return changed

        with self._changed((name, noisy(name, blocks)) for name, blocks in places.items()):
            runs = ((self._before[k], self._run(self._calls[k])) for k in self._order)
            return all(_identical(before[n], after[n]) for before, after in runs for n in before)

    def _run(self, call: Arguments) -> dict[str, Tensor]:
        with primitive_kernels():
            return {name: values.clone() for name, values in self._outputs_of(call).items()}

    def _outputs_of(self, call: Arguments) -> dict[str, Tensor]:
        args, kwargs = call
        with calling(self._model, call):
            renew(self._model)
            found = named_outputs(self._model(*args, **kwargs))
        return {name: found[name] for name in self._outputs if name in found}


def random_permutations(bound: BoundSpec, seed: int) -> dict[str, Permutation]:
    """Return a random permutation of every group of a spec; each that may move something moves."""
    found = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(seed))
    return {
        name: p if p.moved or bound.groups[name].fixed else rotate_units(p)
        for name, p in found.items()
    }


def rotate_units(permutation: Permutation) -> Permutation:
    """Return the permutation followed by a step of all units to the next place."""
    return replace(permutation, index=permutation.index.roll(1, dims=-1))


def _positions(call: Arguments) -> int:
    """Return how much a call is given, which is about how long it takes."""
    return sum(tensor.numel() for tensor in tensors_in(call))


def _identical(before: Tensor, after: Tensor) -> bool:
    one, other = in_reals(before), in_reals(after)
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _relative(before: Tensor, after: Tensor) -> float:
    before, after = in_reals(before), in_reals(after)
    if not before.is_floating_point():  # an index that differs has no distance
        return 0.0 if torch.equal(before, after) else math.inf
    return relative_difference(before, after, least=LEAST)
