"""Which models text can be drawn from, and how much of it: decided before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import RebasinError, UsageError, UserCodeError
from rebasin_cli.models.subject import Example, Subject, without_memory
from rebasin_cli.models.trial_run import failure_on, quiet
from rebasin_cli.models.user.construction import cause_of
from rebasin_cli.network.scoring.scores import logits_of
from rebasin_cli.tensors.trees import tensors_in

# Drawn in all. Barriers that a small GPT learned: .124 from half of them, .116, .113 from twice as
# many, .117 from data.
TOKENS = 32_768
LONGEST = 256  # tokens; without a cache the time of a sequence grows as the square of its length
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "block_size")  # in configurations
TRIED = 4  # tokens that a model is tried with
NOISE = 1e-5  # of the largest logit: what routing other tokens may do to the order of sums


@dataclass(frozen=True)
class SequencePlan:
    """How many sequences of tokens are drawn, and of which length.

    first: the token that all start with; None: any of the vocabulary.
    """

    count: int
    length: int
    first: int | None = None


def plan_sequences(subject: Subject, count: int | None, *, shaped: bool) -> SequencePlan:
    """Return how to draw from models of a class. Raises UsageError if it is no language model.

    count: None: as many as make `TOKENS`. shaped: whether the user says what the input is, whose
    length counts then; otherwise it is what the configuration names, else the longest that the
    model takes, and never more than `LONGEST`.
    """
    model = _small(subject)
    check_language_model(model, subject.name)
    whole = without_memory(subject)
    config: Any = getattr(model if whole is None else whole, "config", None)
    if shaped:
        length = _given_length(subject, model)
    else:
        named = (_whole_number(config, name) for name in CONTEXT)
        length = next((number for number in named if number), 0)
        length = min(length, LONGEST) if length else _longest(model)
    first = _whole_number(config, "bos_token_id")
    return SequencePlan(count or max(2, TOKENS // length), length, first)


def check_language_model(model: nn.Module, name: str) -> None:
    """Raise UsageError for a model that does not answer tokens with logits of the next one."""
    tokens = torch.zeros(2, TRIED, dtype=torch.int64)
    logits = _answers(model, tokens, name)
    shape, words = tuple(logits.shape), logits.shape[-1]
    if len(shape) != 3 or shape[:2] != tuple(tokens.shape):
        raise _refusal(name, f"given tokens {tuple(tokens.shape)} it returns {shape}")
    known = _vocabularies(model)
    if known and words not in known:
        sizes = " or ".join(map(str, sorted(known)))
        raise _refusal(name, f"it tells {words} classes apart, and takes {sizes} tokens")
    tokens[:, -1] = words - 1
    moved = (_answers(model, tokens, name) - logits)[:, :-1].abs().max()
    if moved > NOISE * logits.abs().max():
        raise _refusal(name, "what it answers to a token depends on the tokens behind it")


def _vocabularies(model: nn.Module) -> set[int]:
    """Return how many tokens a model may take: what its configuration or its embeddings say."""
    named = _whole_number(getattr(model, "config", None), "vocab_size")
    if named:
        return {named}
    return {m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)}


def _small(subject: Subject) -> nn.Module:
    """Return a model to try things with, where one can be made a small one."""
    if subject.small is not None:
        try:
            return subject.small.build()
        except RebasinError:  # a way to make it small that its class refuses
            pass
    return subject.build()


def _answers(model: nn.Module, tokens: Tensor, name: str) -> Tensor:
    try:
        with torch.no_grad(), quiet():
            return logits_of(model(tokens)).double()
    except UserCodeError as error:
        raise _refusal(name, error.problems[0].what) from error
    except Exception as error:  # the code of any class runs here
        raise _refusal(name, f"given tokens {tuple(tokens.shape)}: {cause_of(error)}") from error


def _refusal(name: str, detail: str) -> UsageError:
    return UsageError(
        f"only language models can be sampled from, and {name} is none",
        detail=detail,
        hint="--data file.py:batches yields what this model is run on",
    )


def _given_length(subject: Subject, model: nn.Module) -> int:
    """Return how many tokens the input has that the user gives."""
    example = subject.examples(model)[0]
    shapes = [tuple(t.shape) for t in tensors_in((example.args, dict(example.kwargs)))]
    if not shapes or len(shapes[0]) != 2 or shapes[0][1] < 2:
        raise UsageError(
            f"{subject.name} is given {shapes[0] if shapes else 'no tensor'} for an input",
            hint="--input-shape 1,64 draws sequences of 64 tokens",
        )
    return shapes[0][1]


def _longest(model: nn.Module) -> int:
    """Return the most tokens that a model takes, up to `LONGEST`; it has taken `TRIED`."""

    def taken(length: int) -> bool:
        return failure_on(model, Example((torch.zeros(1, length, dtype=torch.int64),))) is None

    if taken(LONGEST):
        return LONGEST
    low, high = TRIED, LONGEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if taken(middle) else (low, middle)
    return low


def _whole_number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if type(value) is int and value >= 0 else None
