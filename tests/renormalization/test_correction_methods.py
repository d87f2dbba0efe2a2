"""Corrected statistics: the formulas, what they bring about, and what they leave alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from rebasin_cli.activations.layer_statistics import Goal, from_flat, goals, layer_tensors
from rebasin_cli.activations.measuring import layer_statistics
from rebasin_cli.activations.moments import moments
from rebasin_cli.errors import UsageError
from rebasin_cli.renormalization.corrected import CorrectionSettings
from rebasin_cli.renormalization.correction_methods import METHODS, renormalize
from rebasin_cli.renormalization.formulas import rescale
from rebasin_cli.renormalization.plan import METHOD_NAMES
from tests.renormalization.families import data, family, images, mean_of, outputs, seeded, small


def test_ten_batches_of_a_hundred_give_what_one_of_a_thousand_gives():
    model = small()
    one, ten = (layer_statistics([model], data(images(1000), n)) for n in (1, 10))
    assert one.keys() == {"0", "3", "5", "10"}
    for name, whole in one.items():
        assert torch.allclose(whole.means, ten[name].means, atol=1e-6)
        assert torch.allclose(whole.deviations, ten[name].deviations, atol=1e-6)


class ByName(nn.Sequential):
    def forward(self, x):
        for layer in self:
            x = layer(input=x)
        return x


def test_layers_that_are_called_by_name_are_measured_as_others_are():
    model = small()
    one, other = (layer_statistics([m], data(images())) for m in (model, ByName(*model).eval()))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name].means, other[name].means) for name in one)


@pytest.mark.parametrize("sequential", [True, False])
def test_repair_gives_the_units_the_mean_and_deviation_of_the_parents(sequential):
    merged, parents = family()
    wanted = goals(layer_statistics(parents, data(images())), (1, 1))
    how = CorrectionSettings("repair", sequential=sequential)
    report = renormalize(merged, wanted, data(images()), how)
    assert [layer.name for layer in report.corrected] == ["0", "3", "5", "10"]
    now = outputs(merged, ("0", "5", "10"), images())
    for name, values in now.items():
        rows = moments(values.movedim(1, -1).flatten(0, -2))
        assert torch.allclose(rows.mean, wanted[name].mean, atol=2e-3)
        assert torch.allclose(rows.deviation, wanted[name].deviation, rtol=2e-3)


def test_in_sequence_the_units_have_their_goals_whatever_the_batches():
    merged, parents = family()
    wanted = goals(layer_statistics(parents, data(images())), (1, 1))
    renormalize(merged, wanted, data(images(), 8), CorrectionSettings("repair", sequential=True))
    rows = moments(outputs(merged, ["10"], images())["10"])
    assert torch.allclose(rows.deviation, wanted["10"].deviation, rtol=2e-3)


def test_rescale_keeps_zero_and_reshift_keeps_deviations():
    mean, deviation = torch.tensor([1.0, -2.0]).double(), torch.tensor([2.0, 0.5]).double()
    goal = Goal(torch.tensor([3.0, 3.0]).double(), torch.tensor([4.0, 4.0]).double())
    made = rescale(mean, deviation, goal)
    assert made.shift.eq(0).all()
    assert torch.allclose(made.scale, torch.tensor([2.0, 8.0]).double(), rtol=1e-4)
    merged, parents = family()
    before = moments(outputs(merged, ["0"], images())["0"].movedim(1, -1).flatten(0, -2))
    wanted = goals(layer_statistics(parents, data(images())), (1, 1))
    renormalize(merged, wanted, data(images()), CorrectionSettings("reshift"))
    after = moments(outputs(merged, ["0"], images())["0"].movedim(1, -1).flatten(0, -2))
    assert torch.allclose(after.deviation, before.deviation, rtol=1e-5)
    assert torch.allclose(after.mean, wanted["0"].mean, atol=1e-6)


def test_a_unit_that_never_changes_stays_as_it_is():
    dead = Goal(torch.ones(2).double(), torch.tensor([0.0, 1.0]).double())
    made = rescale(torch.zeros(2).double(), torch.ones(2).double(), dead)
    assert made.scale[0] == 1
    assert made.scale[1] != 1
    made = rescale(
        torch.zeros(2).double(),
        torch.tensor([1.0, 0.0]).double(),
        Goal(*[torch.ones(2).double()] * 2),
    )
    assert made.scale[1] == 1


def test_the_mean_of_equal_models_nearly_stays_as_it_is():
    model = seeded(small, 4)
    renormalize(model, {}, data(images()), CorrectionSettings("reset"))
    merged = copy.deepcopy(model)
    known = layer_statistics([model, model], data(images()), together=True)
    for method in ("repair", "rescale", "reshift", "closed-form"):
        renormalize(merged, goals(known, (1, 3)), data(images()), CorrectionSettings(method))
    assert torch.allclose(merged[0].weight, model[0].weight, rtol=1e-3)
    assert torch.allclose(merged[10].weight, model[10].weight, rtol=0.03)


def test_closed_form_is_exact_for_the_first_layer():
    merged, parents = family()
    known = layer_statistics(parents, data(images()), together=True)
    wanted: Any = goals(known, (1, 1))
    plain = outputs(merged, ["0"], images())["0"]
    expected = moments(plain.movedim(1, -1).flatten(0, -2)).deviation
    assert torch.allclose(wanted["0"].expected, expected, rtol=1e-5)
    renormalize(merged, wanted, None, CorrectionSettings("closed-form"))
    rows = moments(outputs(merged, ["0"], images())["0"].movedim(1, -1).flatten(0, -2))
    assert torch.allclose(rows.deviation, wanted["0"].deviation, rtol=1e-3)
    assert torch.allclose(rows.mean, wanted["0"].mean, atol=1e-4)


def test_closed_form_fills_a_norm_from_its_parents():
    merged, parents = family()
    wanted: Any = goals(layer_statistics(parents, data(images()), together=True), (1, 1))
    renormalize(merged, wanted, None, CorrectionSettings("closed-form"))
    assert torch.allclose(merged[3].running_mean.double(), wanted["3"].mean, atol=1e-6)
    assert torch.allclose(merged[3].running_var.double(), wanted["3"].expected ** 2, rtol=1e-5)


def test_correlations_are_the_same_with_room_for_all_covariances():
    _, parents = family()
    little, much = (
        layer_statistics(parents, data(images()), together=True, room=room) for room in (0, 1 << 30)
    )
    for name, plain in little.items():
        one, other = plain.correlations, much[name].correlations
        assert plain.covariances is None and much[name].covariances is not None
        assert one is not None and other is not None
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    widths = [one.means.shape[1] for one in little.values()]
    room = 3 * 8 * (min(widths) ** 2)
    some: Any = layer_statistics(parents, data(images()), together=True, room=room)
    held = [one.means.shape[1] for one in some.values() if one.covariances is not None]
    assert held == [min(widths)]
    back: Any = from_flat(layer_tensors(some))
    for name, one in some.items():
        assert torch.allclose(back[name].correlations, one.correlations, rtol=1e-9, atol=1e-12)


def test_statistics_come_back_from_flat_vectors():
    _, parents = family()
    known: Any = layer_statistics([*parents, parents[0]], data(images()), together=True)
    back: Any = from_flat(layer_tensors(known))
    assert "layer.10.correlation.0.2" in layer_tensors(known)
    for name, one in known.items():
        assert torch.equal(back[name].means, one.means)
        assert torch.equal(back[name].correlations, one.correlations)
    assert torch.allclose(known["0"].correlations[1], torch.ones(6).double())


def test_a_goal_can_be_averaged_and_multiplied():
    how = CorrectionSettings("repair", average=True, factor=2.0)
    goal = how.goal(Goal(torch.tensor([1.0, -3.0]).double(), torch.tensor([1.0, 3.0]).double()))
    assert goal.mean.tolist() == [2, -2]
    assert goal.deviation.tolist() == [4, 4]


def test_the_layer_that_returns_the_output_is_left_alone():
    merged, parents = family()
    before = merged[12].weight.clone()
    wanted = goals(layer_statistics(parents, data(images())), (1, 1))
    report = renormalize(merged, wanted, data(images()), CorrectionSettings("rescale"))
    assert ("12", "it returns the model's output") in [(s.name, s.why) for s in report.skipped]
    assert torch.equal(merged[12].weight, before)


@pytest.mark.parametrize("method", ["reset", "repair"])
def test_names_shapes_modes_and_what_is_not_named_stay(method):
    merged, parents = family()
    before = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    wanted = goals(layer_statistics(parents, data(images(), 3)), (1, 1))
    report = renormalize(merged, wanted, data(images(), 3), CorrectionSettings(method))
    after = merged.state_dict()
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(report.tensors)
    assert not any(module.training for module in merged.modules())


def test_only_chosen_layers_are_corrected():
    merged, parents = family()
    wanted = goals(layer_statistics(parents, data(images())), (1, 1))
    how = CorrectionSettings("rescale", selects=lambda name: name.startswith("10."))
    report = renormalize(merged, wanted, data(images()), how)
    assert [layer.name for layer in report.corrected] == ["10"]
    assert "not selected" in {layer.why for layer in report.skipped}


def test_a_reset_without_norms_is_refused():
    with pytest.raises(UsageError, match="reset finds no layer to correct"):
        renormalize(nn.Linear(2, 2), {}, data(torch.randn(4, 2)), CorrectionSettings("reset"))


def test_a_merged_network_of_trained_parents_improves():
    torch.manual_seed(0)
    inputs = torch.randn(512, 10)
    targets = (inputs[:, :5].square().sum(1) > inputs[:, 5:].square().sum(1)).long()

    def trained(seed):
        torch.manual_seed(seed)
        sizes = (10, 32, 32)
        layers = [
            m for k in range(3) for m in (nn.Linear(sizes[k], 32), nn.BatchNorm1d(32), nn.ReLU())
        ]
        model = nn.Sequential(*layers, nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return model.eval()

    def loss(model):
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(inputs), targets))

    a = trained(1)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.add_(
                torch.randn_like(parameter) * parameter.std() * 1.2 if parameter.dim() > 1 else 0
            )
    renormalize(b, {}, data(inputs), CorrectionSettings("reset"))
    merged = mean_of(a, b)
    for norm in (1, 4, 7):
        merged[norm].running_var.copy_((a[norm].running_var + b[norm].running_var) / 2)
    before = loss(merged)
    renormalize(merged, {}, data(inputs, 4), CorrectionSettings("reset", sequential=True))
    assert loss(merged) < 0.9 * before


def test_the_methods_of_the_command_are_in_the_table():
    layers = ["reset", "repair", "rescale", "reshift", "closed-form"]
    assert list(METHODS) == layers
    assert list(METHOD_NAMES) == [*layers, "calibrate"]
