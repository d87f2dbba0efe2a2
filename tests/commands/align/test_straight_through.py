"""`align --method straight-through`: what it writes, says, goes on from and refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.commands.align.command import AlignRequest
from rebasin_cli.commands.align.straight_through.estimator import LearningState
from rebasin_cli.commands.align.straight_through.state_file import read_state, write_state
from tests.cli.build import load, save, shuffled
from tests.cli.harness import rebasin
from tests.commands.align.tiny import WIDTH, batches, bound_spec, network, trained
from tests.proof import draw

ROOT = str(Path(__file__).parents[3])
MODULE = f"""
import sys
sys.path.insert(0, {ROOT!r})
import torch
from torch import nn
from tests.commands.align import tiny

network = tiny.network
data = tiny.batches
def bare():
    return [x for x, y in tiny.batches()]
def spoilt():
    found = tiny.batches()
    return [(x * float("nan") if k == 7 else x, y) for k, (x, y) in enumerate(found)]
class Raising(nn.Sequential):
    def __init__(self):
        super().__init__(*tiny.network())
    def forward(self, x):
        if len(x) > 4:
            raise RuntimeError("the model has no such thing")
        return super().forward(x)
class Normed(nn.Sequential):
    def __init__(self):
        layers = list(tiny.network())
        super().__init__(*layers, nn.BatchNorm1d(3))
"""
ALIGN = ("align", "a.safetensors", "b.safetensors", "-f", "--model", "user.py:network")
LEARN = (*ALIGN, "--method", "straight-through", "--data", "user.py:data")
QUICK = ("--learning-rate", "0.05", "--epochs", "4")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "user.py").write_text(MODULE)
    for name, seed in (("a", 1), ("b", 2)):
        save(tmp_path / f"{name}.safetensors", trained(seed))
    return tmp_path


def result(done):
    assert done.code == 0, done.err
    return next(e for e in done.events if "objective" in e)


def midpoint_loss(folder):
    """Return the mean loss of the midpoint on the held-out batches, computed by hand."""
    a, b = load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors")
    model = network()
    model.load_state_dict({name: (a[name] + b[name]) / 2 for name in a})
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(model(x), y) for x, y in batches()[::5]]
    return float(sum(losses)) / len(losses)


def test_the_loss_that_is_reported_is_that_of_what_was_written(folder):
    found = result(rebasin(*LEARN, *QUICK, "--json", cwd=folder))
    assert found["method"] == "straight-through"
    held_out = found["held_out"]
    assert held_out["loss"]["after"] < held_out["loss"]["before"]
    assert held_out["epochs"] == 4
    assert 0 < held_out["best_epoch"] <= 4
    assert held_out["stopped"] is None
    assert min(held_out["losses"]) == held_out["loss"]["after"]
    assert midpoint_loss(folder) == pytest.approx(held_out["loss"]["after"], rel=1e-5)
    a, b = (load(folder / f"{name}.safetensors") for name in ("a", "b.aligned"))
    inner = sum(float((a[n].double() * b[n].double()).sum()) for n in a)
    assert found["objective"]["after"] == pytest.approx(inner)


def test_no_epochs_leave_the_matching_of_weights(folder):
    done = rebasin(*LEARN, "--epochs", "0", "-o", "none.safetensors", cwd=folder)
    assert done.code == 0, done.err
    assert "none was found below that of matching weights (0 epochs)" in done.err
    assert rebasin(*ALIGN, "-o", "weights.safetensors", cwd=folder).code == 0
    none, weights = (load(folder / f"{n}.safetensors") for n in ("none", "weights"))
    assert all(none[name].equal(weights[name]) for name in weights)


def test_the_summary_says_what_learning_gained(folder):
    done = rebasin(*LEARN, *QUICK, cwd=folder)
    assert "held-out loss of the midpoint 0." in done.err
    assert " by weights -> 0." in done.err
    assert " in epoch " in done.err
    assert "(4 epochs)" in done.err
    assert "norms" not in done.err


def test_norms_are_to_be_reset_after_merging(folder):
    for name, seed in (("a", 1), ("b", 2)):
        norm = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        more = {f"5.{key}": torch.full((3,), value) for key, value in norm.items()}
        save(folder / f"{name}.safetensors", {**trained(seed), **more})
    argv = [word.replace("network", "Normed") for word in LEARN]
    done = rebasin(*argv, "--epochs", "1", cwd=folder)
    assert done.code == 0, done.err
    assert "with batch statistics in the norms: reset those of a merged model" in done.err


def test_a_model_that_is_the_reference_reordered_needs_no_learning(folder):
    save(folder / "b.safetensors", shuffled(trained(1)))
    found = result(rebasin(*LEARN, "--json", cwd=folder))
    assert (found["status"], found["method"]) == ("exact", "straight-through")
    assert "held_out" not in found


def test_an_interrupted_run_ends_as_one_that_was_not(folder):
    whole = result(rebasin(*LEARN, *QUICK, "--json", cwd=folder))
    for epochs in ("1", "3", "4", "4"):
        argv = (*LEARN, *QUICK, "--epochs", epochs, "--resume", "state", "--json")
        parts = result(rebasin(*argv, cwd=folder))
        assert parts["held_out"]["epochs"] == int(epochs)
    assert parts["held_out"] == whole["held_out"]
    assert parts["sha256"] == whole["sha256"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--held-out", "0.3"), "its held-out share was 0.2, now it is 0.3"),
        (("--seed", "4"), "its seed was 0, now it is 4"),
        (("--batches", "5"), "its number of batches was None, now it is 5"),
    ],
)
def test_a_state_of_other_circumstances_is_refused(folder, change, said):
    argv = (*LEARN, "--epochs", "1", "--resume", "state")
    assert rebasin(*argv, cwd=folder).code == 0
    done = rebasin(*argv, *change, cwd=folder)
    assert done.code == 3
    assert f"state: learning cannot go on from here: {said}" in done.err
    assert "begin anew" in done.err


def test_a_state_of_other_models_is_refused(folder):
    argv = (*LEARN, "--epochs", "1", "--resume", "state")
    assert rebasin(*argv, cwd=folder).code == 0
    before = (folder / "state").read_bytes()
    save(folder / "b.safetensors", trained(3))
    done = rebasin(*argv, cwd=folder)
    assert done.code == 3
    assert "it was written for another model than b.safetensors" in done.err
    assert (folder / "state").read_bytes() == before


def test_a_state_is_read_as_it_was_written(folder):
    spec = bound_spec()
    free, velocity = trained(3), trained(4)
    state = LearningState(
        free, velocity, draw(spec, 1), draw(spec, 2), 0.1, 2, losses=(0.3, 1 / 3, 0.1), unit=1.7
    )
    paths = [folder / f"{name}.safetensors" for name in ("a", "b")]
    with open_checkpoint(paths[0]) as a, open_checkpoint(paths[1]) as b:
        write_state(folder / "state", state, (a, b), AlignRequest(()))
        read = read_state(folder / "state", trained(1), spec, (a, b), AlignRequest(()))
    for part in ("free", "velocity"):
        found, expected = getattr(read, part), getattr(state, part)
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in found)
    assert replace(read, free={}, velocity={}) == replace(state, free={}, velocity={})


def test_a_file_that_is_no_state_is_refused(folder):
    save(folder / "state.safetensors", {"x": torch.ones(1)})
    done = rebasin(*LEARN, "--resume", "state.safetensors", cwd=folder)
    assert done.code == 3
    assert "state.safetensors: learning cannot go on from here: this is not a state" in done.err


def test_a_loss_that_is_no_number_keeps_what_was_found(folder):
    argv = [word.replace("data", "spoilt") if ":" in word else word for word in LEARN]
    argv += [*QUICK, "--resume", "state"]
    found = result(rebasin(*argv, "--json", cwd=folder))
    assert found["held_out"]["stopped"] == "the loss had no finite slope in batch 6 of epoch 1"
    assert found["held_out"]["epochs"] == 0
    assert not (folder / "state").exists()
    done = rebasin(*argv, cwd=folder)
    assert "learning broke off: the loss had no finite slope in batch 6 of epoch 1" in done.err


def test_data_without_targets_are_refused(folder):
    argv = [word.replace("data", "bare") if ":" in word else word for word in LEARN]
    done = rebasin(*argv, cwd=folder)
    assert done.code == 3
    assert "user.py:bare yields no targets" in done.err
    assert not (folder / "b.aligned.safetensors").exists()


def test_a_model_that_raises_is_shown_by_its_own_lines(folder):
    argv = [word.replace("network", "Raising") for word in LEARN]
    done = rebasin(*argv, cwd=folder)
    assert done.code == 3
    assert "the model failed: RuntimeError: the model has no such thing" in done.err
    assert 'raise RuntimeError("the model has no such thing")' in done.err
    assert "rebasin_cli" not in done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((*ALIGN, "--method", "straight-through"), "there is no data to run the model on"),
        ((*ALIGN, "--epochs", "3"), "--check-every are about learning"),
        ((*LEARN, "--held-out", "1"), "--held-out 1 is not a share"),
        ((*LEARN, "--resume", "b.safetensors"), "--resume b.safetensors is one of the models"),
        ((*LEARN, "--resume", "state.PT"), "state.PT would be a safetensors file"),
        ((*LEARN, "--resume", "state", "a.safetensors"), "--resume keeps the state of one model"),
        (("merge", *LEARN[1:4], "--method", "straight-through"), "only `rebasin align` has"),
    ],
)
def test_what_contradicts_itself_is_refused(folder, argv, said):
    done = rebasin(*argv, cwd=folder)
    assert done.code == 2
    assert said in done.err


def test_a_missing_folder_for_the_state_is_said_before_any_work(folder):
    done = rebasin(*LEARN, "--resume", "none/state", cwd=folder)
    assert done.code == 3
    assert "none: there is no such folder" in done.err


def test_the_plan_runs_nothing(folder):
    done = rebasin(*LEARN, "--dry-run", cwd=folder)
    assert done.code == 0, done.err
    assert json.loads(done.out)["groups"][0]["size"] == WIDTH
    assert sorted(path.name for path in folder.iterdir() if path.suffix) == [
        "a.safetensors",
        "b.safetensors",
        "user.py",
    ]
