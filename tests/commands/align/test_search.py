"""How permutations are searched for, through the command line."""

import json

import pytest

from tests.cli.build import load, mlp, near, pair, same, save, shuffled
from tests.cli.harness import rebasin

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp", "-f")
THREE = ("a.safetensors", "b.safetensors", "c.safetensors", "--spec", "mlp", "-f")
METHODS = ["auto", "weights", "frank-wolfe", "sinkhorn"]


def planted(folder):
    """Write one model in three orders."""
    for name, state in {"a": mlp(1), "b": shuffled(mlp(1), 7), "c": shuffled(mlp(1), 9)}.items():
        save(folder / f"{name}.safetensors", state)


def result(done):
    assert done.code == 0, done.err
    lines = map(json.loads, done.out.splitlines())
    return next(line for line in lines if line["event"] == "result" and "objective" in line)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_a_planted_order(tmp_path, method):
    planted(tmp_path)
    found = result(rebasin(*ALIGN, "--method", method, "--json", cwd=tmp_path))
    assert found["status"] == "exact"
    assert same(load(tmp_path / "b.aligned.safetensors"), load(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("method", "start"), [("frank-wolfe", "barycenter"), ("weights", "random")]
)
def test_the_result_says_how_it_was_found(tmp_path, method, start):
    save(tmp_path / "a.safetensors", mlp(1))
    save(tmp_path / "b.safetensors", mlp(2))
    argv = (*ALIGN, "--method", method, "--start", start, "--json")
    found = result(rebasin(*argv, cwd=tmp_path))
    assert (found["method"], found["start"]) == (method, start)


def test_more_effort_is_never_worth_less(tmp_path):
    save(tmp_path / "a.safetensors", mlp(1))
    save(tmp_path / "b.safetensors", mlp(2))
    reached = [
        result(rebasin(*ALIGN, "--effort", effort, "--json", cwd=tmp_path))["objective"]["after"]
        for effort in ("quick", "default", "best")
    ]
    assert reached == sorted(reached)


@pytest.mark.parametrize("strategy", ["many", "universe", "star", "sync", "sync-sweeps"])
def test_every_strategy_merges_one_model_in_three_orders_into_itself(tmp_path, strategy):
    planted(tmp_path)
    argv = ("merge", *THREE, "-o", "m.safetensors", "--strategy", strategy, "--json")
    found = result(rebasin(*argv, cwd=tmp_path))
    assert (found["strategy"], found["torn"]) == (strategy, 0.0 if "sync" in strategy else None)
    merged, first = (load(tmp_path / f"{name}.safetensors") for name in "ma")
    assert all(abs(merged[n] - first[n]).max() < 1e-6 for n in first)


def test_pairs_that_disagree_are_told(tmp_path):
    for seed, name in enumerate("abc"):
        save(tmp_path / f"{name}.safetensors", mlp(seed))
    how = ("--strategy", "sync", "--sync-method", "stiefel")
    done = rebasin("merge", *THREE, "-o", "m.safetensors", *how, cwd=tmp_path)
    assert done.code == 0
    assert "% of the units did not come back to themselves around three models" in done.err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--method", "frank-wolf", "did you mean 'frank-wolfe'?"),
        ("--effort", "beste", "did you mean 'best'?"),
        ("--order", "forwards", "did you mean 'forward'?"),
        ("--loss", "l3", "no value of --loss is called 'l3'"),
        ("--loss", "l1", "add --method sinkhorn"),
        ("--start", "barycenter", "--method frank-wolfe"),
    ],
)
def test_what_there_is_not_is_refused_before_any_work(tmp_path, option, value, said):
    pair(tmp_path)
    done = rebasin(*ALIGN, option, value, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not (tmp_path / "b.aligned.safetensors").exists()


@pytest.mark.parametrize(
    "argv",
    [
        (*ALIGN, "--method", "frank-wolfe"),
        (*ALIGN, "--method", "sinkhorn"),
        ("lerp", *THREE[:2], *THREE[3:], "--align", "--steps", "1", "--method", "frank-wolfe"),
        ("verify", "a.safetensors", "b.safetensors", "--spec", "mlp", "--method", "sinkhorn"),
        ("merge", *THREE, "--method", "frank-wolfe"),
        ("merge", *THREE, "--strategy", "universe"),
    ],
)
def test_soft_permutations_that_do_not_fit_are_refused(tmp_path, argv):
    pair(tmp_path)
    save(tmp_path / "c.safetensors", near(shuffled(mlp(1), 9), 4))
    done = rebasin(*argv, "--max-memory", "1kB", cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert "not enough memory" in done.err
    assert "hint: merge with --strategy many, align with --method weights" in done.err
