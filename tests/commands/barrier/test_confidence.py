"""The expected calibration error: against hand counts, and of models that are as sure as right."""

import pytest
import torch

from rebasin_cli.commands.barrier.layers.confidence import BINS, measure_calibration


def logits_of(sure):
    """Two classes, the first with these probabilities."""
    sure = torch.tensor(sure, dtype=torch.float64)
    return torch.stack([sure, 1 - sure], 1).log()


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    logits = logits_of([0.75] * 8 + [0.9] * 10)
    targets = torch.tensor([0] * 6 + [1] * 2 + [0] * 9 + [1])
    assert measure_calibration(logits, targets).error == pytest.approx(0, abs=1e-12)


def test_the_error_is_that_counted_by_hand():
    logits = logits_of([0.75, 0.75, 0.95, 0.95, 0.95])
    targets = torch.tensor([0, 1, 0, 0, 1])
    by_hand = (2 * abs(1 / 2 - 0.75) + 3 * abs(2 / 3 - 0.95)) / 5
    assert measure_calibration(logits, targets).error == pytest.approx(by_hand)


def test_a_model_that_is_sure_and_always_wrong_has_error_one():
    logits = torch.tensor([[200.0, 0.0]] * 4)
    assert measure_calibration(logits, torch.ones(4).long()).error == pytest.approx(1)


def test_wrong_answers_on_one_side_do_not_make_up_for_the_other_in_another_bin():
    logits = logits_of([0.99] * 4 + [0.55] * 4)
    targets = torch.tensor([1, 1, 0, 0] + [0] * 4)
    expected = (abs(2 - 4 * 0.99) + abs(4 - 4 * 0.55)) / 8
    assert measure_calibration(logits, targets).error == pytest.approx(expected)


def test_bins_are_of_equal_width_and_closed_above():
    edge = 9 / BINS
    found = measure_calibration(logits_of([edge, edge + 1e-9]), torch.tensor([0, 0]))
    assert found.counts.nonzero().flatten().tolist() == [8, 9]


def test_batches_join_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 5, generator=generator)
    targets = torch.randint(0, 5, (60,), generator=generator)
    parts = measure_calibration(logits[:13], targets[:13]).joined(
        measure_calibration(logits[13:], targets[13:])
    )
    assert parts.error == pytest.approx(measure_calibration(logits, targets).error)
