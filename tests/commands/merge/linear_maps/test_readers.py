"""The units of groups at the layers that read them: where they stand, and what they do together."""

import pytest
import torch
from torch import nn

from rebasin_cli.commands.merge.linear_maps.axis_roles import model_sides
from rebasin_cli.commands.merge.linear_maps.readers import readers_of, stacked_moments
from rebasin_cli.errors import UserCodeError
from rebasin_cli.network.batches import Batches
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.tensors import InMemory, infos

SPEC = """
rebasin: 1
tensors:
  conv.weight: [c, ~]
  conv.bias: [c]
  again.weight: [c, c]
  again.bias: [c]
  fc.weight: [h, "c * 4"]
  fc.bias: [h]
  both.weight: [~, "h + 2"]
  both.bias: [~]
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.again = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1)
        self.fc, self.both = nn.Linear(12, 5), nn.Linear(7, 2)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        y = torch.relu(y + self.again(y))
        z = torch.relu(self.fc(y.flatten(1)))
        return self.both(input=torch.cat([z, x.flatten(1)[:, :2]], 1))


def net(seed):
    torch.manual_seed(seed)
    return Net().eval()


def found_readers(groups=("c", "h")):
    model = net(0)
    bound = bind(parse(SPEC), infos(InMemory(model.state_dict())))
    return readers_of(groups, bound.tensors, model_sides(model))


def images(count=8):
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(3))


def seen(models, *batches):
    readers = {
        g: (r.tensor.removesuffix(".weight"), r.positions) for g, r in found_readers().items()
    }
    return stacked_moments(models, readers, Batches(lambda: batches))


def test_the_last_layer_that_reads_a_group_shows_it():
    found = found_readers()
    assert found["c"].tensor == "fc.weight"
    assert found["c"].positions.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert found["h"].tensor == "both.weight"
    assert found["h"].positions.flatten().tolist() == [0, 1, 2, 3, 4]


def test_only_groups_that_are_asked_for_are_shown():
    assert list(found_readers(("h",))) == ["h"]


def test_moments_of_flattened_channels_count_every_place():
    model, x = net(0), images()
    with torch.no_grad():
        y = torch.relu(model.conv(x))
        y = torch.relu(y + model.again(y))
    samples = y.movedim(1, -1).flatten(0, -2).double()
    found = seen([model], x)["c"]
    assert found.a.count == 8 * 4
    assert torch.allclose(found.a.mean, samples.mean(0))
    assert torch.allclose(found.covariance, torch.cov(samples.T, correction=0))


def test_units_of_models_stand_one_after_another_over_all_batches():
    models, x = [net(0), net(1), net(2)], images()
    whole, parts = seen(models, x)["h"], seen(models, x[:3], x[3:])["h"]
    assert whole.covariance.shape == (15, 15)
    assert torch.allclose(whole.covariance, parts.covariance)
    alone = seen([models[1]], x)["h"]
    assert torch.allclose(whole.covariance[5:10, 5:10], alone.covariance)


def test_numbers_that_are_not_finite_are_an_error():
    with pytest.raises(UserCodeError, match="units of 'c' are NaN or infinite"):
        seen([net(0)], images() * torch.nan)


def test_a_reader_that_is_not_run_is_an_error():
    model = net(0)
    model.forward = lambda x: model.fc(model.conv(x).flatten(1))
    with pytest.raises(UserCodeError, match="both reads the units of 'h', but is not run"):
        seen([model], images())
