"""`rebasin renormalize` and `merge --renormalize`: files in, corrected files out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rebasin_cli.activations.layer_statistics import LayerStatistics, layer_tensors
from tests.cli.build import mlp, near, save, shuffled
from tests.cli.harness import rebasin

USER = """
import torch
from torch import nn


def net():
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 11), nn.ReLU(),
        nn.Linear(11, 9), nn.ReLU(), nn.Linear(9, 4),
    )


def normed():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def gelu():
    return nn.Sequential(*(nn.GELU() if type(m) is nn.ReLU else m for m in net()))


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        yield 10 * torch.randn(64, 6, generator=generator)
"""
MODEL = ("--model", "user.py:net", "--spec", "mlp")
DATA = ("--data", "user.py:batches")
A, B = "a.safetensors", "b.safetensors"
LAYERS = ["0", "2", "4"]


@pytest.fixture
def folder(tmp_path):
    """Two perceptrons, one in another order and with noise, and their naive merge in a's basin."""
    (tmp_path / "user.py").write_text(USER)
    one = mlp(0)
    other = near(one, 3, noise=0.9)
    save(tmp_path / A, one)
    save(tmp_path / B, shuffled(other, 5))
    save(tmp_path / "mean.safetensors", {n: (one[n] + other[n]) / 2 for n in one})
    save(tmp_path / "aligned.safetensors", other)
    return tmp_path


def network(path):
    space: dict[str, Any] = {}
    exec(USER, space)
    model = space["net"]()
    model.load_state_dict(load_file(path))
    return model.eval()


def units(path, layer):
    """Return what the units of a layer do on the data, of a checkpoint: (samples, units)."""
    space: dict[str, Any] = {}
    exec(USER, space)
    inputs = torch.cat(list(space["batches"]()))
    with torch.no_grad():
        return network(path)[: int(layer) + 1](inputs).double()


def renormalize(folder, *words):
    return rebasin("renormalize", *words, "--json", "--quiet", cwd=folder)


def test_repair_brings_every_layer_to_the_mean_of_its_aligned_parents(folder):
    done = renormalize(
        folder, "mean.safetensors", "--parents", A, B, "--method", "repair", *MODEL, *DATA,
        "--sequential",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    result = done.events[0]
    assert result["path"] == "mean.renormalized.safetensors"
    assert [layer["name"] for layer in result["layers"]] == LAYERS
    assert result["skipped"] == [{"name": "6", "why": "it returns the model's output"}]
    assert [parent["basin"] for parent in result["parents"]] == ["aligned to it"] * 2
    for layer in LAYERS:
        one, other, now = (
            units(folder / name, layer)
            for name in (A, "aligned.safetensors", "mean.renormalized.safetensors")
        )
        assert torch.allclose(now.mean(0), (one.mean(0) + other.mean(0)) / 2, atol=1e-3)
        goal = (one.std(0) + other.std(0)) / 2
        assert torch.allclose(now.std(0), goal, rtol=1e-3)


def test_what_no_correction_touches_stays_bit_for_bit(folder):
    done = renormalize(
        folder, "mean.safetensors", "--parents", A, B, "--method", "rescale", *MODEL, *DATA,
        "--only", "2.*",
    )  # fmt: skip
    assert done.code == 0
    before, after = (
        load_file(folder / name) for name in ("mean.safetensors", "mean.renormalized.safetensors")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert list(before) == list(after)
    assert changed == {"2.weight", "2.bias"}


def test_parents_are_trusted_with_no_align(folder):
    done = renormalize(
        folder, "mean.safetensors", "--parents", A, B, "--method", "rescale", "--no-align",
        "--model", "user.py:net", *DATA,
    )  # fmt: skip
    assert done.events[0]["spec"] is None
    assert [parent["basin"] for parent in done.events[0]["parents"]] == ["as it is"] * 2


def test_weights_come_from_the_provenance_of_the_merged_file(folder):
    rebasin("merge", A, B, "-w", "3,1", "-o", "m.safetensors", "--spec", "mlp", cwd=folder)
    words = ("--parents", B, A, "--method", "calibrate", "--decay", "depth", "--spec", "mlp")
    done = renormalize(folder, "m.safetensors", *words)
    parents = done.events[0]["parents"]
    assert [(parent["path"], parent["weight"]) for parent in parents] == [(B, 1), (A, 3)]
    assert parents[1]["basin"] == "there already, by its provenance"
    a, b, found = (
        load_file(folder / name)["2.bias"].double()
        for name in (A, "aligned.safetensors", "m.renormalized.safetensors")
    )
    assert torch.allclose(found, 0.75**2 * a + 0.25**2 * b, atol=1e-6)
    done = renormalize(folder, "m.safetensors", *words, "-w", "1,1", "--force")
    assert [parent["weight"] for parent in done.events[0]["parents"]] == [1, 1]


def test_calibrate_finds_the_same_depths_in_a_spec_and_in_a_model(folder):
    words = ("mean.safetensors", "--parents", A, "aligned.safetensors", "--method", "calibrate")
    first = renormalize(folder, *words, "--spec", "mlp", "-o", "one.safetensors")
    second = renormalize(
        folder, *words, "--spec", "mlp", "--model", "user.py:net", "--input-shape", "2,6",
        "-o", "two.safetensors",
    )  # fmt: skip
    assert (first.code, second.code) == (0, 0)
    one, two, mean = (load_file(folder / f"{name}.safetensors") for name in ("one", "two", "mean"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    changed = {name for name in one if not torch.allclose(one[name], mean[name])}
    assert changed == {"2.bias", "4.bias", "6.bias"}  # the first has nothing before it
    depths = [layer["how"] for layer in second.events[0]["layers"]]
    assert depths == [f"calibrated at depth {k}" for k in (1, 2, 3, 4)]


def test_the_assumption_that_a_spec_needs_is_said(folder):
    done = rebasin(
        "renormalize", "mean.safetensors", "--parents", A, B, "--method", "calibrate", "--spec",
        "mlp", cwd=folder,
    )  # fmt: skip
    assert "4 biases: calibrated" in done.err
    assert "that activations are ReLU-like is assumed" in done.err
    assert done.lines == ["mean.renormalized.safetensors"]


def test_calibrate_refuses_what_is_not_homogeneous_by_name(folder):
    done = renormalize(
        folder, "mean.safetensors", "--parents", A, B, "--method", "calibrate", "--spec", "mlp",
        "--model", "user.py:gelu", "--input-shape", "2,6",
    )  # fmt: skip
    assert done.code == 2
    assert "gelu after 0.weight: not positively homogeneous" in done.err
    assert not (folder / "mean.renormalized.safetensors").exists()


def test_closed_form_needs_no_data_with_a_file_of_statistics(folder):
    known = {
        layer: LayerStatistics(torch.zeros(2, n), torch.ones(2, n), torch.zeros(1, n))
        for layer, n in (("0", 8), ("2", 11))
    }
    save_file(layer_tensors(known), folder / "s.safetensors")
    done = renormalize(
        folder, "mean.safetensors", "--method", "closed-form", "--statistics", "s.safetensors",
        "--model", "user.py:net",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    before, after = (
        load_file(folder / name) for name in ("mean.safetensors", "mean.renormalized.safetensors")
    )
    # of two unrelated units the mean has half the variance
    assert torch.allclose(after["0.weight"], before["0.weight"] * 2**0.5, rtol=1e-4)
    assert torch.equal(after["4.weight"], before["4.weight"])


def write_normed(folder):
    torch.manual_seed(0)
    first = nn.Linear(6, 8)
    model = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    for name in ("m.pt", "n.pt"):
        nn.init.normal_(first.weight)
        torch.save(model.state_dict(), folder / name)


def test_reset_measures_batch_norm_anew_and_keeps_the_format(folder):
    write_normed(folder)
    done = rebasin("renormalize", "m.pt", "--model", "user.py:normed", *DATA, "-v", cwd=folder)
    assert done.code == 0
    assert done.lines == ["m.renormalized.pt"]
    assert "1 layer: statistics reset" in done.err
    assert "std before" in done.err
    state = torch.load(folder / "m.renormalized.pt", weights_only=True)
    space: dict[str, Any] = {}
    exec(USER, space)
    inputs = torch.cat(list(space["batches"]()))
    read = inputs @ state["0.weight"].T + state["0.bias"]
    assert torch.allclose(state["1.running_mean"], read.mean(0), atol=1e-3)
    assert torch.allclose(state["1.running_var"], read.var(0), rtol=1e-4)
    assert state["1.num_batches_tracked"].dtype == torch.int64


def test_a_merge_with_batch_norm_says_how_to_mend_it(folder):
    write_normed(folder)
    words = ("merge", "m.pt", "n.pt", "--strategy", "none")
    done = rebasin(*words, cwd=folder)
    assert "BatchNorm statistics do not fit an average" in done.err
    assert "rebasin renormalize merged.pt --method reset" in done.err
    done = rebasin(
        *words, "--renormalize", "reset", "--model", "user.py:normed", *DATA, "-o", "r.pt",
        cwd=folder,
    )  # fmt: skip
    assert done.code == 0
    assert "renormalized by reset" in done.err
    assert "do not fit" not in done.err
    plain, reset = (torch.load(folder / n, weights_only=True) for n in ("merged.pt", "r.pt"))
    assert not torch.equal(plain["1.running_var"], reset["1.running_var"])
    assert torch.equal(plain["0.weight"], reset["0.weight"])


def test_merge_renormalizes_in_one_go_as_the_two_commands_do(folder):
    rebasin("merge", A, B, "--spec", "mlp", "-o", "m.safetensors", cwd=folder)
    two = renormalize(
        folder, "m.safetensors", "--parents", A, B, "--method", "rescale", *MODEL, *DATA
    )
    one = rebasin(
        "merge", A, B, "--renormalize", "rescale", *MODEL, *DATA, "-o", "one.safetensors", "--json",
        cwd=folder,
    )  # fmt: skip
    assert (two.code, one.code) == (0, 0)
    assert [layer["name"] for layer in one.events[0]["renormalized"]["layers"]] == LAYERS
    merged = load_file(folder / "one.safetensors")
    again = load_file(folder / "m.renormalized.safetensors")
    assert all(torch.allclose(merged[n], again[n], rtol=1e-5, atol=1e-6) for n in merged)
    with safe_open(folder / "one.safetensors", "pt") as file:
        assert json.loads(file.metadata()["rebasin"])["renormalized"] == "rescale"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "reset", *DATA), "a model has to be run"),
        (("--method", "reset", "--model", "user.py:net"), "there is no data to run the model on"),
        (("--method", "reset", "--model", "user.py:net", *DATA), "reset finds no layer to correct"),
        (("--method", "rescale", *MODEL, *DATA), "name them"),
        (
            (
                "--method",
                "rescle",
            ),
            "did you mean 'rescale'?",
        ),
        (("--method", "xyz"), "reset, repair, rescale, reshift, calibrate, closed-form"),
        (("--method", "calibrate", "--sequential"), "--sequential says nothing to method"),
        (("--method", "reset", "--average"), "--average says nothing to method 'reset'"),
        (("--method", "rescale", "--statistics", A), "--statistics says nothing to method"),
        (("--method", "calibrate", "--decay", "deep"), "no value of --decay is called 'deep'"),
        (("--method", "rescale", "--factor", "-1"), "a positive number"),
        (("--method", "closed-form", "--statistics", A), "--model file.py:Class"),
        (
            ("--method", "closed-form", "--statistics", A, "--model", "user.py:net"),
            "holds no statistics of layers",
        ),
    ],
)
def test_what_cannot_be_done_is_said(folder, words, said):
    done = rebasin("renormalize", "mean.safetensors", *words, cwd=folder)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_merged_behind_the_parents_is_refused(folder):
    done = rebasin("renormalize", "--parents", A, B, "mean.safetensors", *MODEL, *DATA, cwd=folder)
    assert done.code == 2
    assert "MERGED stands before --parents" in done.err


def test_a_dry_run_prints_the_plan(folder):
    done = rebasin(
        "renormalize", "mean.safetensors", "--parents", A, B, *MODEL, *DATA, "-n", cwd=folder
    )
    plan = json.loads(done.out)
    assert plan["command"] == "renormalize"
    assert plan["method"] == "rescale"
    assert plan["spec"] == "mlp"
    assert not (folder / "mean.renormalized.safetensors").exists()
