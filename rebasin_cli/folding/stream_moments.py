"""What folded models have in common on data, two by two: second moments of their streams.

y is what a norm gives to its readers, the residual of length sqrt(d) (not normalised, long tokens
decide: barriers of .79 instead of .66, measured on a small llama). G = sum over norms l of
E[y_A y_B'], whose polar factor is the rotation that brings the activations of B nearest to A's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from rebasin_cli.errors import UsageError
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.network import Network
from rebasin_cli.network.scoring.scores import call_model
from rebasin_cli.spec.language.model import PERMUTATION
from rebasin_cli.symmetry.fold_plan import FoldPlan
from rebasin_cli.tensors import TensorSource

TOKENS = 16_384  # after which more of them change nothing
EVEN = 0.2  # spread of the lengths of what a norm gives out, as a share of their mean

Seen = dict[str, list[Tensor]]  # by group: what each norm gives out, (tokens, d)


@dataclass(frozen=True)
class StreamMoments:
    """G (d, d) in float64 of every stream, for each two models, by their numbers in order."""

    pairs: Mapping[tuple[int, int], Mapping[str, Tensor]]

    def between(self, first: int, second: int) -> dict[str, Tensor]:
        """Return G by stream, the units of the first model in front."""
        if first < second:
            return dict(self.pairs[first, second])
        return {group: found.T for group, found in self.pairs[second, first].items()}


def stream_moments(
    nets: Sequence[nn.Module],
    folded: Sequence[TensorSource],
    network: Network,
    plan: FoldPlan,
    batches: Batches,
) -> StreamMoments:
    """Return what the streams of models do on the same data.

    nets: the models, with the folded weights in them. Raises UsageError where a norm is no module
    of its own, and UserCodeError for what the models raise.
    """
    pairs: dict[tuple[int, int], dict[str, Tensor]] = {
        pair: {} for pair in combinations(range(len(nets)), 2)
    }
    left = TOKENS
    for batch in batches:
        seen = []
        for net, source in zip(nets, folded, strict=True):
            with _watched(net, source, network, plan) as found, torch.no_grad():
                call_model(net, batch)
            seen.append(found)
        for (first, second), moments in pairs.items():
            _add(moments, seen[first], seen[second])
        left -= max((len(each[0]) for each in seen[0].values()), default=left)
        if left <= 0:
            break
    return StreamMoments(
        {
            pair: {group: found.cpu() for group, found in moments.items()}
            for pair, moments in pairs.items()
        }
    )


def _add(moments: dict[str, Tensor], first: Seen, second: Seen) -> None:
    """Add to the moments of two models what they did on a batch."""
    for group in first:
        for a, b in zip(first[group], second[group], strict=True):
            share = a.T @ b
            moments[group] = moments[group] + share if group in moments else share


@contextmanager
def _watched(
    net: nn.Module, source: TensorSource, network: Network, plan: FoldPlan
) -> Iterator[Seen]:
    """Give what the norms of a model give out, of streams that may be turned, while it runs."""
    seen: Seen = {}
    modules, classes = dict(net.named_modules()), plan.classes
    with ExitStack() as stack:
        for norm in plan.norms.values():
            (group,) = plan.tensors[norm.gain].groups
            if classes[group] == PERMUTATION:
                continue
            home = network.windows[norm.gain].source.rpartition(".")[0]
            bias = source.load(norm.bias) if norm.bias else torch.zeros(())
            hook = partial(_keep, seen.setdefault(group, []), bias, home)
            stack.callback(modules[home].register_forward_hook(hook).remove)
        yield seen


def _keep(seen: list[Tensor], bias: Tensor, home: str, *call: object) -> None:
    seen.append(_rows(call[-1], bias, home))


def _above_bias(given: Tensor, bias: Tensor) -> Tensor:
    """Return rows without the bias, in float64 where they are; mps has none."""
    here = given.detach()
    rows = (here.cpu() if here.device.type == "mps" else here).double().flatten(0, -2)
    return rows - bias.to(rows)


def _rows(given: object, bias: Tensor, home: str) -> Tensor:
    """Return what a norm gave out as (tokens, d), each of length sqrt(d)."""
    rows = _above_bias(given, bias) if isinstance(given, Tensor) else None
    lengths = rows.norm(dim=-1) if rows is not None else torch.zeros(1)
    if rows is None or not float(lengths.std(correction=0)) <= EVEN * float(lengths.mean()):
        raise UsageError(
            f"{home or 'the model'} has a gain, and gives out what is not normalised",
            hint="leave out --method activations: weights need no module for each norm",
        )
    unit: Tensor = rows * rows.shape[-1] ** 0.5 / lengths.clamp_min(1e-300)[:, None]
    return unit
