"""Whatever form a loader gives to inputs and targets, the scores are those of (inputs, targets)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rebasin_cli.errors import UserCodeError
from rebasin_cli.models.user.batch_inputs import examples_of_batches
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.scoring.scores import cross_entropy_judge

CLASSES = 3
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 2, 1, 1, 0])
HOT = F.one_hot(Y, CLASSES)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.linear(x)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = Plain()

    def forward(self, x, more):
        return self.plain(x + more)


class Optional(Plain):
    def forward(self, x, mask=None, scale=1.0):
        return self.linear(x if mask is None else x * mask) * scale


class Labelled(Plain):
    """As models of transformers are: labels are taken, and lead to a loss."""

    def forward(self, x, labels=None):
        logits = self.linear(x)
        loss = {} if labels is None else {"loss": F.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


class Open(Plain):
    def forward(self, x, **more):
        return self.linear(x)


def scores(model, *values):
    return cross_entropy_judge(Batches(lambda: iter(values), "data.py:batches"))(model)


TARGETS = {
    "classes": Y,
    "int32": Y.int(),
    "uint8": Y.byte(),
    "float": Y.float(),
    "a column": Y[:, None],
    "a float column": Y[:, None].double(),
    "one-hot": HOT,
    "one-hot float": HOT.float(),
    "one-hot bool": HOT.bool(),
    "numpy": Y.numpy(),
    "numpy uint16": Y.numpy().astype(np.uint16),
    "one-hot numpy": HOT.numpy().astype(np.float32),
    "a list": Y.tolist(),
    "a dictionary": {"labels": Y},
}


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("whole", [tuple, list])
def test_targets_of_every_form_are_the_same(form, whole):
    expected = scores(Plain(), (X, Y))
    assert scores(Plain(), whole((X, TARGETS[form]))) == pytest.approx(expected)


def test_bool_targets_are_two_classes():
    model = nn.Linear(4, 2)
    right = Y > 0
    assert scores(model, (X, right)) == pytest.approx(scores(model, (X, right.long())))


def test_probabilities_are_judged_by_the_likeliest_class():
    soft = 0.7 * HOT + 0.1
    found = scores(Plain(), (X, soft))
    logits = Plain()(X).detach().double()
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, soft.double())))
    assert found["accuracy"] == scores(Plain(), (X, Y))["accuracy"]


def test_answers_that_torch_passes_over_do_not_count():
    masked = torch.where(torch.arange(5) < 2, -100, Y)
    expected = scores(Plain(), (X[2:], Y[2:]))
    assert scores(Plain(), (X, masked)) == pytest.approx(expected)
    with pytest.raises(UserCodeError, match=r"data\.py:batches holds no target that counts"):
        scores(Plain(), (X, torch.full((5,), -100)))


@pytest.mark.parametrize("axis", [1, -1])
def test_one_hot_pictures_and_texts_count_in_every_place(axis):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, CLASSES, generator=generator)
    right = torch.randint(CLASSES, (2, 4, 6), generator=generator)
    hot = F.one_hot(right, CLASSES)

    class Given(nn.Module):
        def forward(self, x):
            return logits.movedim(-1, axis)

    plain = scores(Given(), (X[:2], right))
    assert scores(Given(), (X[:2], hot.movedim(-1, axis))) == pytest.approx(plain)
    column = right[:, None] if axis == 1 else right[..., None]
    assert scores(Given(), (X[:2], column)) == pytest.approx(plain)


BATCHES = {
    "three parts": (Plain, (X, Y, torch.arange(5))),
    "four parts in a list": (Plain, [X, Y[:, None], torch.arange(5), ["a"] * 5]),
    "two inputs beside targets": (Two, (X, torch.zeros_like(X), Y)),
    "x and label": (Plain, {"x": X, "label": Y}),
    "another name": (Plain, {"pixel_values": X, "labels": Y}),
    "a name in capitals": (Plain, {"image": X, "Label": HOT.float()}),
    "input_ids": (Plain, {"input_ids": X, "labels": Y}),
    "numpy in a dictionary": (Plain, {"x": X.numpy(), "y": Y.numpy()}),
    "a list of labels": (Plain, {"x": X, "target": Y.tolist()}),
    "one named input and targets": (Plain, ({"pixel_values": X}, Y)),
    "more inputs by name": (Optional, {"x": X, "mask": torch.ones_like(X), "labels": Y}),
    "labels that forward swallows": (Open, {"x": X, "labels": Y}),
    "numpy": (Plain, (X.numpy(), Y.numpy())),
}


@pytest.mark.parametrize("form", BATCHES)
def test_parts_that_are_plain_are_found(form):
    model, value = BATCHES[form]
    assert scores(model(), value) == pytest.approx(scores(Plain(), (X, Y)))


@pytest.mark.parametrize("form", BATCHES)
def test_a_model_is_traced_on_the_inputs_alone(form):
    model, value = BATCHES[form]
    examples = examples_of_batches(Batches(lambda: iter([value])))(model())
    for example, rows in zip(examples, (2, 3), strict=True):
        assert model()(*example.args, **example.kwargs).shape == (rows, CLASSES)


def test_a_model_that_takes_labels_gets_them():
    found = scores(Labelled(), {"x": X, "labels": Y})
    assert found == {"loss": pytest.approx(scores(Plain(), (X, Y))["loss"])}


def test_two_inputs_without_targets_are_two_inputs():
    examples = examples_of_batches(Batches(lambda: iter([(X, X)])))(Two())
    assert [len(example.args) for example in examples] == [2, 2]


def flat():
    return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))


ONE = "the model gives one number for each answer, not classes"
WRONG = {
    "several classes at once": (Plain, (X, torch.ones(5, CLASSES)), "name several classes at once"),
    "no class": (Plain, (X, torch.zeros(5, CLASSES)), "or are no classes"),
    "fractions": (Plain, (X, torch.rand(5)), "are fractions, not classes"),
    "classes too large": (Plain, (X, Y + 1), "from 1 to 3, and the model knows classes 0 to 2"),
    "negative classes": (Plain, (X, Y - 1), "go from -1 to 1, and"),
    "other shapes": (Plain, (X, Y[:4]), r"logits of shape \(5, 3\) do not fit targets of shape"),
    "one output": (lambda: nn.Linear(4, 1), (X, Y[:, None]), ONE),
    "one flat output": (flat, (X, Y), ONE),
    "three parts for any": (Optional, (X, Y, Y), "which of its 3 parts are inputs"),
    "names of nothing": (Plain, {"a": X, "b": X, "labels": Y}, "the model takes no a, b"),
    "no targets among three": (Plain, (X, {"a": X, "b": X}, Y), "which of its 3 parts"),
    "two kinds of labels": (Plain, {"x": X, "label": Y, "targets": Y}, "takes no label, targets"),
}


@pytest.mark.parametrize("form", WRONG)
@pytest.mark.parametrize("before", [0, 2])
def test_what_is_not_plain_is_refused_with_the_batch_and_the_way_out(form, before):
    make, value, message = WRONG[form]
    model = make()
    good = [(X, Y)] * before if make is Plain else []
    with pytest.raises(UserCodeError, match=message) as told:
        scores(model, *good, value)
    said = str(told.value)
    assert f"batch {len(good) + 1} of data.py:batches" in said
    assert "--evaluate FILE.py:FUNCTION" in said
    assert "the batch is " in said
    assert "float32 (5, 4)" in said
    assert "--input-shape" not in said
