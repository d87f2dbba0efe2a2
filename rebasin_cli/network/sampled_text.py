"""Text that language models write themselves: as good as data to see what their units do.

Tokens are drawn one after another from the softmax of the last answer, at temperature 1. (Tokens
drawn evenly are not: barriers of .83 and .49 where text gives .66 and .35, measured by activations
on a small llama and a GPT.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, cast

import torch
from torch import Tensor, nn

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.subject import Example
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.built import batches_of, build_network
from rebasin_cli.network.language_model import SequencePlan
from rebasin_cli.network.network import UserCode
from rebasin_cli.network.scoring.scores import call_model, logits_of
from rebasin_cli.network.user_code import users_code
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import Progress
from rebasin_cli.tensors import TensorSource

DRAWN = 4096  # tokens at a time: with 50,000 words their logits take a gigabyte
BATCH = 2048  # tokens
LEAST = 10  # batches, of which a share can be held out


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
    """Return a function that reports progress: it is called with the tokens drawn from a model."""
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
    """Return sequences of tokens (count, length), int64 on the CPU, that a model writes.

    told: how many tokens there are, now and then.
    """
    generates = getattr(model, "can_generate", None)
    go_on = _go_on_by_library if callable(generates) and generates() else _go_on
    size = max(1, DRAWN // plan.length)
    found = torch.zeros(0, plan.length, dtype=torch.int64)
    for start in range(0, count, size):
        told(found.numel())
        first = _first(model, min(size, count - start), plan.first, generator)
        found = torch.cat([found, go_on(model, first, plan.length, generator).cpu()])
    told(found.numel())
    return found


def _first(model: nn.Module, rows: int, token: int | None, generator: torch.Generator) -> Tensor:
    """Return the first token of every sequence, (rows, 1), on the device of the model."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    words = _last_logits(model, torch.zeros(1, 1, dtype=torch.int64, device=device)).shape[-1]
    if token is not None and token < words:
        return torch.full((rows, 1), token, device=device)
    return torch.randint(words, (rows, 1), generator=generator).to(device)


def _go_on(model: nn.Module, tokens: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Return sequences continued to a length; all that was written is read again each time."""
    while tokens.shape[1] < length:
        likely = _last_logits(model, tokens).cpu().double().softmax(-1)
        if not likely.isfinite().all():
            raise UserCodeError("the model answers its own text with what is not finite")
        drawn = torch.multinomial(likely, 1, generator=generator)
        tokens = torch.cat([tokens, drawn.to(tokens.device)], 1)
    return tokens


def _last_logits(model: nn.Module, tokens: Tensor) -> Tensor:
    return logits_of(call_model(model, Batch(Example((tokens,)))))[:, -1]


def _go_on_by_library(
    model: Any, tokens: Tensor, length: int, generator: torch.Generator
) -> Tensor:
    """Return the same by transformers, which keeps what a model made of the text before.

    None of the model's own settings, such as penalties or an end, shapes what is drawn.
    """
    plain = type(model.generation_config)(
        do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_length=length, pad_token_id=0
    )
    model.generation_config = plain  # which fills in where the one that is passed says None
    seed = int(torch.randint(2**31, (), generator=generator))
    devices = [tokens.device] if tokens.is_cuda else []
    with users_code("the model"), quiet(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        found = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), generation_config=plain
        )
    return cast(Tensor, found)
