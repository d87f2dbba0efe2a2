"""The ensemble: the mean of what models answer as probabilities, judged as one model is."""

import numpy as np
import pytest
import torch
from torch import nn

from rebasin_cli.network.batches import Batches
from rebasin_cli.network.scoring.ensemble import judge_ensemble
from rebasin_cli.network.scoring.scores import cross_entropy_judge


def probabilities(model, inputs):
    logits = model(inputs).detach().double().numpy()
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def two_models():
    torch.manual_seed(0)
    return [nn.Linear(5, 4), nn.Linear(5, 4)]


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_losses_and_hits_are_those_of_the_mean_of_probabilities(weights):
    models, inputs = two_models(), torch.randn(30, 5)
    targets = torch.randint(4, (30,))
    batches = Batches(lambda: zip(inputs.split(7), targets.split(7), strict=True))
    found = judge_ensemble(models, batches, weights=weights)
    shares = np.array(weights or (1.0, 1.0))
    pairs = zip(shares / shares.sum(), models, strict=True)
    mean = sum(share * probabilities(model, inputs) for share, model in pairs)
    picked = mean[np.arange(30), targets.numpy()]
    assert found["loss"] == pytest.approx(-np.log(picked).mean(), rel=1e-6)
    assert found["accuracy"] == (mean.argmax(-1) == targets.numpy()).mean()


def test_every_token_counts_but_those_that_are_passed_over():
    models, inputs = two_models(), torch.randn(6, 3, 5)
    targets = torch.randint(4, (6, 3))
    targets[0, 1] = targets[4, 2] = -100
    found = judge_ensemble(models, Batches(lambda: [(inputs, targets)]))
    mean = sum(probabilities(model, inputs) for model in models) / 2
    rows, right = mean.reshape(18, 4), targets.flatten().numpy()
    counted = right >= 0
    losses = -np.log(rows[counted, right[counted]])
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-6)


def test_soft_targets_are_compared_whole():
    models, inputs = two_models(), torch.randn(9, 5)
    targets = torch.randn(9, 4).softmax(-1)
    found = judge_ensemble(models, Batches(lambda: [(inputs, targets)]))
    mean = sum(probabilities(model, inputs) for model in models) / 2
    expected = -(targets.double().numpy() * np.log(mean)).sum(-1).mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_ensemble_of_copies_is_the_model():
    (one, _), inputs = two_models(), torch.randn(20, 5)
    batches = Batches(lambda: [(inputs, torch.arange(20) % 4)])
    found, alone = judge_ensemble([one, one, one], batches), cross_entropy_judge(batches)(one)
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    assert found["accuracy"] == alone["accuracy"]


def test_a_model_that_is_sure_and_wrong_has_a_finite_loss_in_company():
    sure, torn = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        sure.weight.copy_(torch.tensor([[2000.0], [-2000.0]]))
        torn.weight.zero_()
    batches = Batches(lambda: [(torch.ones(1, 1), torch.tensor([1]))])
    assert judge_ensemble([sure, torn], batches)["loss"] == pytest.approx(-np.log(0.25))
