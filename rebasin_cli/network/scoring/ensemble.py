"""The ensemble of models: the mean of their probabilities, which a merge of them seldom reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.batch import Batch
from rebasin_cli.models.user.batch_inputs import fit_batch
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.network import UserCode
from rebasin_cli.network.scoring.answers import Answers, counted_answers
from rebasin_cli.network.scoring.scores import call_model, check_scores, logits_of

UNANSWERED = 1e-300  # a probability of 0 has no logarithm; float64 has smaller numbers than this


@dataclass(frozen=True)
class Ensemble:
    """The scores of the ensemble of some models, or the reason why there are none."""

    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


def why_no_ensemble(code: UserCode, batches: Batches, model: nn.Module) -> str:
    """Return why the models that a user's code builds have no ensemble, empty if they have."""
    if code.evaluate is not None:
        return "--evaluate judges one model, and not the mean of what several answer"
    if not code.fed:
        return "there is no --data to answer"
    if fit_batch(next(iter(batches)), model).targets is None:
        return "the data has no targets of its own, to compare a mean of probabilities with"
    return ""


def judge_ensemble(
    models: Sequence[nn.Module], batches: Batches, *, weights: Sequence[float] = ()
) -> Mapping[str, float]:
    """Return cross-entropy in nats and accuracy of the weighted mean of probabilities.

    Of each answer: of language models for every token. weights: none: equal ones. Raises
    UserCodeError as judging one of the models does.
    """
    shares = torch.tensor(list(weights) or [1.0] * len(models), dtype=torch.float64)
    shares = shares / shares.sum()
    loss, hits, count = 0.0, 0.0, 0
    with torch.no_grad():
        for batch in batches:
            found = [_answers_of(model, batch) for model in models]
            pairs = zip(shares.tolist(), found, strict=True)
            mean = torch.stack([w * one.rows.double().softmax(-1) for w, one in pairs]).sum(0)
            loss += float(_surprise(mean, found[0].targets))
            hits += float((mean.argmax(-1) == found[0].right).sum())
            count += len(mean)
    if not count:
        raise UserCodeError(f"{batches.name} holds no target that counts")
    return check_scores({"loss": loss / count, "accuracy": hits / count}, batches.name)


def _answers_of(model: nn.Module, batch: Batch) -> Answers:
    fitted = fit_batch(batch, model)
    assert fitted.targets is not None, "`why_no_ensemble` has looked"
    return counted_answers(logits_of(call_model(model, fitted)), fitted.targets, fitted)


def _surprise(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of cross-entropies; targets: classes, or probabilities of them."""
    logs = probabilities.clamp(min=UNANSWERED).log()
    if targets.dim() == 2:
        return -(targets * logs).sum()
    return -logs.gather(-1, targets.unsqueeze(-1)).sum()
