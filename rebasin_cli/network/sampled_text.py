"""Text that language models write themselves: as good as data to see what their units do.

Tokens are drawn one after another from the softmax of the last answer, at temperature 1. (Tokens
drawn evenly are not: barriers of .83 and .49 where text gives .66 and .35, measured by activations
on a small llama and a GPT.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import UserCodeError
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.language_model import SequencePlan
from rebasin_cli.network.network import UserCode
from rebasin_cli.network.scores import logits_of
from rebasin_cli.network.user_code import users_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource

DRAWN = 4096  # tokens at a time: with 50,000 words their logits take a gigabyte
BATCH = 2048  # tokens
LEAST = 10  # batches, of which a share can be held out
CACHE = ("past_key_values", "use_cache")  # what a forward of transformers takes


def data_of(
    code: UserCode, models: Sequence[TensorSource], machine: Machine, progress: Progress
) -> Batches:
    """Return the data of a plan, on its device: the user's, or text that the models write.

    Each model writes as much, and a pass takes from them in turn. The same seed draws the same.
    Raises UserCodeError for what a model raises, and where its answers are not finite.
    """
    plan = code.sequences
    if plan is None:
        return batches_of(code, machine)
    generator = torch.Generator().manual_seed(machine.seed)
    shares = [len(range(k, plan.count, len(models))) for k in range(len(models))]
    drawn, done = [], 0
    for source, share in zip(models, shares, strict=True):
        told = _telling(progress, plan, done * plan.length)
        net = build_network(code.network, source, machine)
        drawn.append(draw_sequences(net, share, plan, generator, told=told))
        done += share
    turns = chain.from_iterable(zip_longest(*(part.unbind() for part in drawn)))
    rows = torch.stack([row for row in turns if row is not None])
    size = max(1, min(BATCH // plan.length, plan.count // LEAST))
    return Batches(
        lambda: torch.split(rows, size),
        name="the sampled text",
        limit=code.data.batches,
        device=machine.device,
        seed=machine.seed,
    )


def _telling(progress: Progress, plan: SequencePlan, before: int) -> Callable[[int], None]:
    """Return what is told how many tokens of a model are drawn."""
    what = f"drawing {plan.count:,} sequences of {plan.length} tokens from the models"
    return lambda done: progress(what, before + done, plan.count * plan.length)


@torch.no_grad()
def draw_sequences(
    model: nn.Module,
    count: int,
    plan: SequencePlan,
    generator: torch.Generator,
    *,
    told: Callable[[int], None],
) -> Tensor:
    """Return sequences of tokens (count, length), int64 on the CPU, that a model writes."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    size = max(1, DRAWN // plan.length)
    found = [torch.zeros(0, plan.length, dtype=torch.int64)]
    for start in range(0, count, size):
        rows = min(size, count - start)
        writer = _Writer(model, device, generator)
        tokens = writer.first(rows, plan.first)
        while tokens.shape[1] < plan.length:
            told(start * plan.length + tokens.numel())
            tokens = torch.cat([tokens, writer.next(tokens)], 1)
        found.append(tokens)
    return torch.cat(found)


class _Writer:
    """A model that goes on from what it has read: where it can, it keeps what it made of that."""

    def __init__(self, model: nn.Module, device: torch.device, generator: torch.Generator) -> None:
        self._model, self._device, self._generator = model, device, generator
        self._keeps = set(CACHE) <= inspect.signature(model.forward).parameters.keys()
        self._kept: Any = None

    def first(self, rows: int, token: int | None) -> Tensor:
        """Return the first token of every sequence, (rows, 1)."""
        words = self._logits(torch.zeros(1, 1, dtype=torch.int64)).shape[-1]
        self._kept = None
        if token is not None and token < words:
            return torch.full((rows, 1), token)
        return torch.randint(words, (rows, 1), generator=self._generator)

    def next(self, tokens: Tensor) -> Tensor:
        """Return a token that follows each sequence, (rows, 1)."""
        logits = self._logits(tokens if self._kept is None else tokens[:, -1:]).cpu().double()
        if not logits.isfinite().all():
            raise UserCodeError("the model answers its own text with logits that are not finite")
        return torch.multinomial(logits.softmax(-1), 1, generator=self._generator)

    def _logits(self, tokens: Tensor) -> Tensor:
        """Return the last logits of each sequence, (rows, words)."""
        kept = {"past_key_values": self._kept, "use_cache": True} if self._keeps else {}
        with users_code("the model"):
            returned = self._model(tokens.to(self._device), **kept)
        self._kept = getattr(returned, "past_key_values", None) if self._keeps else None
        return logits_of(returned)[:, -1]
