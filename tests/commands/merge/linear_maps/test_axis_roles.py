"""Which axes of a module's tensors write units and which read them."""

import pytest
import torch
from torch import nn

from rebasin_cli.commands.merge.linear_maps.axis_roles import SPREAD, model_sides, sides_of
from rebasin_cli.spec.binding.axis_sides import READ, WRITE
from rebasin_cli.tensors import TensorInfo
from rebasin_cli.tensors.blocks import Window


@pytest.mark.parametrize(
    ("module", "weight"),
    [
        (nn.Linear(3, 4), (WRITE, READ)),
        (nn.Conv1d(3, 4, 5), (WRITE, READ, None)),
        (nn.Conv2d(3, 4, 5), (WRITE, READ, None, None)),
        (nn.ConvTranspose2d(3, 4, 5), (READ, WRITE, None, None)),
        (nn.Conv2d(4, 4, 3, groups=2), (None, None, None, None)),
        (nn.Embedding(3, 4), (None, WRITE)),
        (nn.LayerNorm(4), (WRITE,)),
        (nn.Bilinear(2, 3, 4), (None, None, None)),
    ],
)
def test_axes_of_known_kinds_have_sides_and_others_none(module, weight):
    found = model_sides(module)
    assert found["weight"] == weight
    assert found.get("bias", (WRITE,)) == (WRITE,)


def test_statistics_of_a_norm_are_written_and_variances_are_apart():
    found = model_sides(nn.Sequential(nn.BatchNorm2d(4)))
    assert found["0.running_mean"] == (WRITE,)
    assert found["0.running_var"] == (SPREAD,)
    assert found["0.num_batches_tracked"] == ()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.places = nn.Parameter(torch.zeros(1, 4, 3))


def test_tied_tensors_have_the_sides_that_all_their_modules_give_them():
    found = model_sides(Tied())
    assert found["embed.weight"] == found["head.weight"] == (None, None)
    assert found["places"] == (None, None, None)


def test_a_checkpoints_own_names_count_and_parts_of_tensors_have_no_sides():
    model = nn.Sequential(nn.Linear(3, 4))
    whole = Window.whole(TensorInfo("0.weight", (4, 3), torch.float32))
    part = Window("0.weight", (2, 3), (3, 1), 6)
    found = sides_of(model, {"fc.w": whole, "fc.half": part})
    assert found == {"fc.w": (WRITE, READ)}
