"""A second proof of a traced spec that shares nothing with the first but the spec.

Other parameters, other permutations, the kernels that users run instead of the ones pinned for
tracing, and the second example only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.permutation import Permutation
from rebasin_cli.permuted import take
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import BoundSpec
from rebasin_cli.spec.language.model import Declaration, Named, Spec, axes_of, leaves
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tracer.model_trace import Trace
from rebasin_cli.tracer.proof.unproved import without_sizes
from rebasin_cli.tracer.recording.capture import named_outputs
from tests.proof import draw, overwrite, permuted

SEED = 20260  # not one of the proof's
DRAWS = 20  # how often a group of two units is drawn until it moves
NOISE = 0.1  # what is added to parameters that hardly vary, as in the proof


def moved(subject: Subject, found: Trace) -> float:
    """Return by how much a fresh model's outputs move if all groups are permuted.

    Outputs whose units the trace lets move have to move just so. In float64, or in float32 where
    the model refuses that or its outputs are no numbers.
    """
    for dtype in (torch.float64, torch.float32):
        try:
            before, after = _runs(subject, found, dtype)
        except RuntimeError:
            if dtype == torch.float32:
                raise
            continue
        if all(bool(value.isfinite().all()) for value in before.values()):
            break
    return max(_change(value, after[name]) for name, value in before.items())


def _runs(
    subject: Subject, found: Trace, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the kept outputs as they should be, and as they are after all groups are permuted."""
    torch.manual_seed(SEED)
    model = subject.build()
    example = subject.examples(model)[-1]
    _scatter(model.to(dtype))
    before = _outputs(model, example, found, dtype)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    permutations = _drawn(found.bound)
    overwrite(model, permuted(state, found.bound.tensors, permutations))
    expected = {n: _taken(v, found, n, permutations) for n, v in before.items()}
    return expected, _outputs(model, example, found, dtype)


def _taken(
    values: Tensor, found: Trace, name: str, permutations: Mapping[str, Permutation]
) -> Tensor:
    """Return an output, permuted as the trace says that it is."""
    entry = without_sizes(found.returned.get(name, ()))
    trees = [axis for axes in axes_of(entry) for axis in axes]
    names = {leaf.name for tree in trees for leaf in leaves(tree) if isinstance(leaf, Named)}
    if not names:
        return values
    every = found.bound.groups
    groups = {
        group: Declaration(every[group].size, (every[group].parents or (None,))[-1], one_sided=True)
        for group in names
    }
    info = TensorInfo(name, tuple(values.shape), values.dtype)
    bound = bind(Spec(tensors={name: entry}, groups=groups), {name: info})
    return take(values, bound.tensors[0], permutations)


def _drawn(bound: BoundSpec) -> dict[str, Permutation]:
    """Return a permutation of every group, none the identity: of two units every other one is."""
    found: dict[str, Permutation] = {}
    for seed in range(SEED, SEED + DRAWS):
        found = {name: one for name, one in draw(bound, seed).items() if one.moved} | found
    return found


def _scatter(model: nn.Module) -> None:
    """Make every parameter and statistic vary, so much that it matters to the outputs."""
    generator = torch.Generator().manual_seed(SEED)
    tables = {name: buffer for name, buffer in model.named_buffers() if "running_" in name}
    for name, tensor in {**dict(model.named_parameters()), **tables}.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            wide = (tensor.numel() / tensor.shape[0]) ** -0.5 if tensor.dim() > 1 else NOISE
            hardly = tensor.numel() < 2 or tensor.dim() < 2 or float(tensor.std()) < wide / 2
            tensor.add_(
                noise.abs() if name.endswith("running_var") else noise,
                alpha=wide if hardly else wide * NOISE,
            )


def _outputs(
    model: nn.Module, example: Example, found: Trace, dtype: torch.dtype
) -> dict[str, Tensor]:
    torch.manual_seed(SEED)
    with quiet():
        returned: Any = model(*_cast(example.args, dtype), **_cast(dict(example.kwargs), dtype))
    values = named_outputs(returned)
    return {name: values[name].clone() for name in found.outputs if name in values}


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    if isinstance(tree, Tensor):
        return tree.to(dtype) if tree.is_floating_point() else tree
    if isinstance(tree, Mapping):
        return {key: _cast(item, dtype) for key, item in tree.items()}
    return type(tree)(_cast(item, dtype) for item in tree) if type(tree) in (list, tuple) else tree


def _change(before: Tensor, after: Tensor) -> float:
    """Return the largest difference relative to the largest value.

    Infinite for what is not finite, and for outputs that are all equal: they would show nothing.
    """
    constant = before.numel() > 1 and bool((before == before.flatten()[0]).all())
    if before.shape != after.shape or constant or not bool(after.isfinite().all()):
        return math.inf
    scale = float(before.double().abs().max().clamp_min(1e-30))
    return float((before.double() - after.double()).abs().max()) / scale
