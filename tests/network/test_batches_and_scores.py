"""Batches, the border to a user's code, and scores, against computations by hand."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rebasin_cli.errors import MachineError, RebasinError, UsageError, UserCodeError
from rebasin_cli.models.batch import read_batch
from rebasin_cli.models.user_functions import load_loader, loader_of
from rebasin_cli.network.batches import Batches
from rebasin_cli.network.scoring.scores import cross_entropy_judge, logits_of, own_judge
from rebasin_cli.network.user_code import users_code
from rebasin_cli.tensors.trees import tensors_in


def stream(*batches):
    return Batches(lambda: iter(batches), "the data")


def rows(batches):
    return [tensors_in(batch.example.args)[0].flatten().tolist() for batch in batches]


def shuffling(seed=0):
    data = TensorDataset(torch.arange(12.0))
    made = DataLoader(data, batch_size=5, shuffle=True)
    return Batches(lambda: made, seed=seed)


def test_a_loader_that_shuffles_gives_the_same_batches_in_every_pass():
    batches = shuffling()
    first = rows(batches)
    torch.rand(3)
    assert rows(batches) == first
    assert [len(row) for row in first] == [5, 5, 2]
    assert rows(shuffling(seed=1)) != first


def test_what_runs_between_two_batches_does_not_change_the_next():
    def noise():
        for _ in range(3):
            yield torch.rand(2)

    batches, found = Batches(noise), []
    for batch in batches:
        torch.rand(100)
        found += rows([batch])
    assert found == rows(batches)
    assert found[0] != found[1]  # its numbers go on from batch to batch


def test_the_loader_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    rows(shuffling())
    assert torch.equal(torch.rand(2), expected)


@given(st.integers(1, 9))
def test_a_limit_takes_the_first_batches(limit):
    every = [torch.full((1,), float(k)) for k in range(5)]
    found = rows(Batches(lambda: iter(every), limit=limit))
    assert found == [[float(k)] for k in range(min(limit, 5))]


def test_a_loader_is_asked_for_no_more_than_the_limit():
    def one_only():
        yield torch.zeros(1)
        raise AssertionError("asked for a second batch")

    assert rows(Batches(one_only, limit=1)) == [[0.0]]


def test_data_without_a_batch_is_an_error_with_its_name():
    with pytest.raises(UserCodeError, match="the data has no batch"):
        list(stream())


def test_a_loader_that_raises_is_told_with_its_name_and_line():
    def broken():
        yield torch.zeros(1)
        raise OSError("no more images")

    with pytest.raises(UserCodeError, match=r"user\.py:x failed: OSError: no more images") as told:
        list(Batches(broken, "user.py:x"))
    assert 'raise OSError("no more images")' in told.value.problems[0].detail


def test_a_batch_that_cannot_reach_the_device_is_the_users():
    batch = torch.zeros(2, device="meta")
    with pytest.raises(UserCodeError, match="the data failed: NotImplementedError"):
        list(stream(batch))


X, Y = torch.zeros(3, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("value", "args", "kwargs", "targets"),
    [
        (X, (X,), {}, None),
        ((X, Y), (X,), {}, Y),
        ([X, Y], (X,), {}, Y),
        ((X, None), (X,), {}, None),
        ((X,), (X,), {}, None),
        (((X, X), Y), (X, X), {}, Y),
        ({"x": X}, (), {"x": X}, None),
        (({"x": X}, Y), (), {"x": X}, Y),
        ((X, X, X), (X, X, X), {}, None),
    ],
)
def test_the_forms_of_a_batch(value, args, kwargs, targets):
    batch = read_batch(value)
    assert len(batch.example.args) == len(args)
    assert all(one is other for one, other in zip(batch.example.args, args, strict=True))
    assert dict(batch.example.kwargs) == kwargs
    assert batch.targets is targets
    assert batch.rows == 3


@pytest.mark.parametrize("value", [7, "text", None, (), (1, 2)])
def test_anything_else_is_no_batch(value):
    with pytest.raises(UserCodeError, match=f"the data yields a {type(value).__name__}"):
        read_batch(value)


def test_a_loader_may_be_a_function_or_a_thing_but_not_an_iterator(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "made = [torch.zeros(1), torch.ones(1)]\n"
        "once = iter(made)\n"
        "number = 3\n"
        "def batches():\n    return made\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("made", "batches"):
        batches = Batches(load_loader(f"mine.py:{name}"))
        assert [rows(batches), rows(batches)] == [[[0.0], [1.0]]] * 2
    with pytest.raises(UsageError, match="is an iterator, which can be read only once"):
        load_loader("mine.py:once")
    with pytest.raises(UsageError, match="is a int, not a way to get batches"):
        load_loader("mine.py:number")


def test_a_loader_that_returns_nothing_is_told_so():
    with pytest.raises(UserCodeError, match="odd returns nothing\nhint: it has to yield batches"):
        list(loader_of(lambda: None, "odd")())


def test_an_exception_keeps_the_users_lines_and_no_others():
    def mine():
        nn.Linear(3, 4)(torch.zeros(2, 5))

    failure = pytest.raises(UserCodeError, match="the model failed: RuntimeError")
    with failure as told, users_code("the model"):
        mine()
    (problem,) = told.value.problems
    files = re.findall(r'File "(.*?)"', problem.detail)
    assert files
    assert {name.rpartition("/")[2] for name in files} == {"test_batches_and_scores.py"}
    assert "nn.Linear(3, 4)(torch.zeros(2, 5))" in problem.detail


def test_many_lines_are_cut_to_the_innermost():
    def down(level):
        if level == 0:
            raise KeyError("at the bottom")
        further(level - 1)

    def further(level):
        down(level)

    with pytest.raises(UserCodeError, match="KeyError") as told, users_code("it"):
        down(30)
    assert told.value.problems[0].detail.count("File ") == 6
    assert told.value.problems[0].detail.endswith('raise KeyError("at the bottom")')


def test_what_a_user_prints_is_talk(capsys):
    with users_code("it"):
        print("epoch 1")
    assert capsys.readouterr() == ("", "epoch 1\n")


def test_leaving_is_a_failure_and_ctrl_c_is_not():
    with pytest.raises(UserCodeError, match="it failed: SystemExit: 3"), users_code("it"):
        raise SystemExit(3)
    with pytest.raises(KeyboardInterrupt), users_code("it"):
        raise KeyboardInterrupt


def test_our_own_errors_and_full_memory_keep_their_kind():
    with pytest.raises(RebasinError, match="ours"), users_code("it"):
        raise RebasinError("ours")
    with pytest.raises(MachineError, match="it does not fit into memory"), users_code("it"):
        raise MemoryError


class Fixed(nn.Module):
    """A model that answers with what it was made with, row by row of its input."""

    def __init__(self, answers, wrap=lambda logits: logits):
        super().__init__()
        self.answers, self.wrap = answers, wrap

    def forward(self, numbers):
        return self.wrap(self.answers[numbers])


ANSWERS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 3.0], [1.0, 1.5, 0.0]])
RIGHT = torch.tensor([0, 1, 0, 1])


def by_hand(logits, targets):
    """Return loss and accuracy of (answers, classes) in plain arithmetic."""
    losses = [
        float(torch.log(torch.exp(row).sum()) - row[target])
        for row, target in zip(logits.double(), targets, strict=True)
    ]
    hits = [int(row.argmax()) == int(t) for row, t in zip(logits, targets, strict=True)]
    return {"loss": sum(losses) / len(losses), "accuracy": sum(hits) / len(hits)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: {"logits": logits},
        lambda logits: {"hidden": None, "logits": logits},
        lambda logits: (logits, "more"),
        lambda logits: {"out": logits},
    ],
)
def test_scores_are_those_computed_by_hand_whatever_the_sizes_of_batches(wrap):
    first, second = torch.tensor([0, 1, 2]), torch.tensor([3])
    batches = stream((first, RIGHT[first]), (second, RIGHT[second]))
    found = cross_entropy_judge(batches)(Fixed(ANSWERS, wrap))
    assert found == pytest.approx(by_hand(ANSWERS, RIGHT))


@pytest.mark.parametrize("axis", [1, -1])
def test_every_place_of_a_text_or_an_image_counts(axis):
    """Classes in the last axis (texts) or in axis 1 (images, N C H W)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 3, generator=generator)
    targets = torch.randint(3, (2, 5, 6), generator=generator)
    model = Fixed(logits if axis == -1 else logits.movedim(-1, 1))
    numbers = torch.tensor([0, 1])
    found = cross_entropy_judge(stream((numbers, targets)))(model)
    assert found == pytest.approx(by_hand(logits.flatten(0, 2), targets.flatten()))


def test_targets_that_do_not_fit_are_told_with_both_shapes():
    batches = stream((torch.tensor([0, 1]), torch.zeros(2, 7).long()))
    with pytest.raises(UserCodeError, match=r"logits of shape \(2, 3\) do not fit .* \(2, 7\)"):
        cross_entropy_judge(batches)(Fixed(ANSWERS))


def test_without_targets_a_models_own_loss_counts_by_rows():
    losses = torch.tensor([1.0, 3.0, 3.0])

    class Own(nn.Module):
        def forward(self, numbers):
            return {"loss": losses[numbers].mean()}

    found = cross_entropy_judge(stream(torch.tensor([0]), torch.tensor([1, 2])))(Own())
    assert found == {"loss": pytest.approx(7 / 3)}
    with pytest.raises(UserCodeError, match="the data yields no targets"):
        cross_entropy_judge(stream(torch.tensor([0])))(Fixed(ANSWERS))


def test_a_loss_that_is_not_finite_is_refused():
    batches = stream((torch.tensor([0]), torch.tensor([1])))
    with pytest.raises(UserCodeError, match="the data: loss is nan"):
        cross_entropy_judge(batches)(Fixed(torch.full((1, 3), float("nan"))))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (1, {"loss": 1.0}),
        (torch.tensor(0.5), {"loss": 0.5}),
        ({"accuracy": 1}, {"accuracy": 1.0}),
    ],
)
def test_a_users_function_says_a_number_or_several(said, expected):
    assert own_judge(lambda model: said, "mine")(nn.Identity()) == expected


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("good", "mine returns a str"),
        (None, "mine returns a NoneType"),
        ({"loss": [1, 2]}, "mine returns a dict"),
        ({"loss": float("inf"), "accuracy": 1}, "mine: loss is inf"),
    ],
)
def test_anything_else_that_it_says_is_an_error(said, message):
    with pytest.raises(UserCodeError, match=message):
        own_judge(lambda model: said, "mine")(nn.Identity())


def test_the_judge_asks_for_no_gradients():
    asked = own_judge(lambda model: torch.is_grad_enabled(), "mine")(nn.Identity())
    assert asked == {"loss": 0.0}


def test_a_model_that_returns_no_logits_is_told_what_to_do():
    with pytest.raises(UserCodeError, match="the model returns a int, not logits") as told:
        logits_of(3)
    assert told.value.problems[0].hint == "--evaluate FILE.py:FUNCTION"
