"""Where a model can be cut: what follows must depend on one tensor alone."""

import pytest
import torch
from torch import nn

from rebasin_cli.commands.merge.preserve_first.call_order import spans_of, weight_layers
from rebasin_cli.commands.merge.preserve_first.cut_points import CutPoint, cut_point_at, cut_points
from rebasin_cli.commands.merge.preserve_first.cut_proof import cut_holds, pass_costs
from rebasin_cli.models.subject import Example


class Residual(nn.Module):
    """A stem, blocks with a skip connection, a head; `spare` is never called."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 6))
        self.stem = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(6, 3)
        self.spare = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x))) * self.scale
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x)}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Dense(nn.Module):
    """Every layer reads what all layers before it returned."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4 * (k + 1), 4) for k in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Shared(nn.Module):
    """A layer that is called first and last."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.one(torch.relu(self.two(torch.relu(self.one(x)))))


class Inputs(nn.Module):
    """What follows the first layer also reads the inputs, which all parents have."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.two(self.one(x)) * x


class Named(nn.Module):
    """The second layer gets its input by name."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.two(input=self.one(input=x))


class Listed(nn.Module):
    """The second layer is called with a list, as those of DenseNet are."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), OfList()

    def forward(self, x):
        return self.two([x, self.one(x)])


class OfList(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4))

    def forward(self, values):
        return torch.cat(values, 1) @ self.weight


def seen(model):
    torch.manual_seed(0)
    model = model.double().eval()
    example = Example((torch.randn(3, 4, dtype=torch.float64),))
    spans = spans_of(model, example)
    return model, example, spans, weight_layers(model, spans)


def first_seam(model, count):
    model, example, spans, layers = seen(model)
    return next(
        (s for s in cut_points(model, spans, layers, count) if cut_holds(model, spans, s, example)),
        None,
    )


def test_layers_are_the_modules_with_weights_in_the_order_of_their_calls():
    *_, layers = seen(Residual())
    inside = [f"blocks.{k}.{part}" for k in range(2) for part in ("up", "down")]
    assert layers == ["stem", *inside, "head"]


@pytest.mark.parametrize(
    ("count", "join", "kept"),
    [
        (1, "blocks.0", ("stem", "norm")),
        (2, None, ()),
        (3, "blocks.1", ("stem", "norm", "blocks.0")),
        (4, None, ()),
        (5, "head", ("stem", "norm", "blocks.0", "blocks.1")),
    ],
)
def test_a_residual_network_is_cut_between_its_blocks(count, join, kept):
    seam = first_seam(Residual(), count)
    assert (seam.join if seam else None) == join
    assert (seam.kept if seam else ()) == kept


def test_what_is_kept_and_merged_are_the_outermost_modules():
    model, _, spans, _ = seen(Residual())
    assert cut_point_at(model, spans, "blocks.1") == CutPoint(
        "blocks.1", ("stem", "norm", "blocks.0"), ("head",)
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_network_that_reads_everything_before_is_cut_nowhere(count):
    assert first_seam(Dense(), count) is None


def test_a_layer_that_is_called_again_after_the_cut_cannot_be_kept():
    assert first_seam(Shared(), 1) is None


def test_the_inputs_of_the_model_may_be_read_after_the_cut():
    assert first_seam(Inputs(), 1).join == "two"


def test_the_join_may_get_its_input_by_name():
    assert first_seam(Named(), 1).join == "two"


def test_a_join_that_is_called_without_a_tensor_is_none():
    assert first_seam(Listed(), 1) is None


def test_the_cost_of_a_part_is_that_of_its_products():
    model, example, spans, _ = seen(Residual())
    part, whole = pass_costs(model, cut_point_at(model, spans, "blocks.1"), example)
    stem, block, head = 4 * 6, 2 * 6 * 8, 6 * 3
    assert (part, whole) == (2 * 3 * (stem + block), 2 * 3 * (stem + 2 * block + head))


def test_the_model_has_no_hooks_left():
    model, example, spans, layers = seen(Residual())
    for seam in cut_points(model, spans, layers, 2):
        cut_holds(model, spans, seam, example)
        pass_costs(model, seam, example)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
