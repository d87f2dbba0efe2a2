"""barrier: how good the models on a line are, whatever the network and the data come as."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rebasin_cli as rb
from tests.api.nets import Convolutions, batches, convolutions, copied, mlp, pictures, same


def summed(net: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"sum": float(net(pictures()).sum())}


def test_a_curve_has_the_scores_of_the_models_on_the_line() -> None:
    a, b = convolutions(0), convolutions(1)
    curves = rb.barrier(a, b, evaluate=summed, at=[0.25, 0.5])
    assert list(curves.naive) == [0.0, 0.25, 0.5, 1.0]
    net, aligned = Convolutions().eval(), rb.align(a, b)
    for alpha, scores in curves.naive.items():
        net.load_state_dict(rb.lerp(a, b, alpha))
        assert scores == summed(net)
    for alpha, scores in (curves.aligned or {}).items():
        net.load_state_dict(rb.lerp(a, aligned, alpha))
        assert scores["sum"] == pytest.approx(summed(net)["sum"])
    assert curves.matching is not None and curves.matching.permutations


def test_an_aligned_model_has_no_barrier() -> None:
    a = convolutions(0)
    b = rb.align(convolutions(1), a)
    with torch.no_grad():
        data = [(pictures(64), a.eval()(pictures(64)).argmax(1))]  # both ends are right
    curves = rb.barrier(a, b, data=data, steps=5)
    assert curves.barrier("loss").chord.height == pytest.approx(0, abs=1e-6)
    assert curves.barrier("loss", aligned=False).chord.height > 1e-3
    assert curves.barrier("accuracy").mean.height == 0
    assert curves.barrier("accuracy", aligned=False).mean.height > 0
    with pytest.raises(KeyError):
        curves.barrier("f1")


def test_a_spec_says_how_to_align_where_there_are_data() -> None:
    a, b = convolutions(0), convolutions(1)
    spec = rb.trace(a, pictures()).spec
    curves = rb.barrier(a, b, data=batches(), steps=2, spec=spec)
    assert curves.matching is not None and curves.matching.spec == spec


def test_the_ensemble_is_the_mean_of_what_both_models_answer() -> None:
    a, b = convolutions(0).eval(), convolutions(1).eval()
    found = rb.barrier(a, b, data=batches(), steps=2, align=False).ensemble
    (x, targets), *_ = batches()
    with torch.no_grad():
        mean = (a(x).double().softmax(1) + b(x).double().softmax(1)) / 2
    assert found is not None and found.keys() == {"loss", "accuracy"}
    assert found["loss"] == pytest.approx(-float(mean.log()[range(8), targets].mean()))
    assert found["accuracy"] == float((mean.argmax(1) == targets).double().mean())
    assert rb.barrier(a, b, evaluate=summed, steps=2, align=False).ensemble is None


def test_without_alignment_there_is_one_curve() -> None:
    curves = rb.barrier(convolutions(0), convolutions(1), data=batches(), steps=2, align=False)
    assert (curves.aligned, curves.matching) == (None, None)
    assert curves.barrier() == curves.barrier(aligned=False)


def _yielding() -> Iterator[object]:
    yield from batches()


DATA: dict[str, Callable[[], Any]] = {
    "list": batches,
    "function": lambda: _yielding,
    "DataLoader": lambda: DataLoader(TensorDataset(*batches()[0]), batch_size=8),
}


@pytest.mark.parametrize("form", DATA)
def test_data_comes_in_any_form(form: str) -> None:
    a, b = convolutions(0), convolutions(1)
    wanted = rb.barrier(a, b, data=batches(), steps=3)
    found = rb.barrier(
        a.state_dict(), b.state_dict(), model=Convolutions, data=DATA[form](), steps=3
    )
    assert (found.naive, found.aligned) == (wanted.naive, wanted.aligned)
    again = pickle.loads(pickle.dumps(found))
    assert (again.naive, again.aligned) == (found.naive, found.aligned)
    at = rb.barrier(a, b, data=batches(), at=torch.tensor([0.5]), align=False)
    assert at.naive == wanted.naive


def test_files_and_targets_are_judged_as_objects_are(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_file(convolutions(seed).state_dict(), tmp_path / f"{seed}.safetensors")
    found = rb.barrier(
        tmp_path / "0.safetensors",
        tmp_path / "1.safetensors",
        model="tests.api.nets:Convolutions",
        data="tests.api.nets:batches",
        steps=3,
    )
    wanted = rb.barrier(convolutions(0), convolutions(1), data=batches(), steps=3)
    assert (found.naive, found.aligned) == (wanted.naive, wanted.aligned)
    judged = rb.barrier(
        tmp_path / "0.safetensors",
        convolutions(1),
        evaluate="tests.api.test_judging:summed",
        steps=2,
    )
    assert judged.naive[0.0] == summed(convolutions(0).eval())


def test_an_evaluation_changes_nothing_but_its_own_module() -> None:
    def trained(net: nn.Module) -> float:
        assert not net.training
        net.train()
        return float(net(pictures() + torch.randn(1)).sum())

    a, b = convolutions(0).train(), convolutions(1)
    before, state = (copied(a), copied(b)), torch.get_rng_state()
    curves = rb.barrier(a, b, evaluate=trained, steps=3)
    assert curves.naive == rb.barrier(a, b, evaluate=trained, steps=3).naive
    assert same(before[0], a.state_dict()) and same(before[1], b.state_dict())
    assert a.training and torch.equal(state, torch.get_rng_state())


def test_chance_is_the_same_at_every_place() -> None:
    drawn = rb.barrier(mlp(0), mlp(1), evaluate=lambda net: float(torch.rand(1)), steps=3).naive
    assert len({scores["loss"] for scores in drawn.values()}) == 1


def _fails(net: nn.Module) -> float:
    raise ArithmeticError("too much")


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({}, rb.RebasinError, "nothing says how good a model is"),
    "an iterator": ({"data": iter(batches())}, rb.RebasinError, "can be read only once"),
    "no data": ({"data": 3}, rb.RebasinError, "is a int, not a way to get batches"),
    "no labels": ({"data": [pictures()]}, rb.RebasinError, "the data yields no targets"),
    "no function": ({"evaluate": 3}, TypeError, "a int is no function of a module"),
    "it raises": ({"evaluate": _fails}, rb.RebasinError, "ArithmeticError: too much"),
    "no score": ({"evaluate": repr}, rb.RebasinError, "the evaluation returns a str"),
    "a data set": (
        {"data": TensorDataset(*batches()[0])},
        rb.RebasinError,
        "DataLoader",
    ),
    "no name": ({"data": "sampled"}, rb.RebasinError, "'sampled' names nothing"),
    "no count": ({"data": batches(), "steps": 3.0}, TypeError, "steps=3.0: expected a whole"),
    "no batches": ({"data": batches(), "batches": 0}, rb.RebasinError, "batches=0: expected 1"),
    "no places": ({"data": batches(), "at": "x"}, TypeError, "at='x': expected a number"),
    "one place": ({"data": batches(), "steps": 1}, rb.RebasinError, "steps=1: both ends count"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_judged_is_refused_with_the_reason(case: str) -> None:
    options, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        rb.barrier(convolutions(0), convolutions(1), **options)


def test_a_network_has_to_be_told_where_no_model_is_one() -> None:
    with pytest.raises(rb.RebasinError, match="a model has to be run"):
        rb.barrier(mlp(0).state_dict(), mlp(1).state_dict(), evaluate=summed)
