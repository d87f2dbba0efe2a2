"""`rebasin merge`: the exact weighted mean, in the frame of the reference."""

import pytest
import torch

from tests.cli.build import load, mlp, near, pair, same, save, shuffled
from tests.cli.harness import rebasin


def three(folder):
    """Write a, b and c: one model, twice in another order and with noise."""
    pair(folder)
    save(folder / "c.safetensors", near(shuffled(mlp(1), 9), 4))
    return [f"{name}.safetensors" for name in "abc"]


def merged(*argv, cwd):
    done = rebasin("merge", *argv, "-o", "m.safetensors", cwd=cwd)
    assert done.code == 0, done.err
    return load(cwd / "m.safetensors")


@pytest.mark.parametrize("weights", ["0.5,0.3,0.2", "1,0,0", "2,-0.5,1", "0,1,1"])
def test_weights_make_the_exact_mean(tmp_path, weights):
    paths = three(tmp_path)
    found = merged(*paths, "--strategy", "none", "-w", weights, cwd=tmp_path)
    w = [float(weight) for weight in weights.split(",")]
    states = [load(tmp_path / path) for path in paths]
    for name, tensor in found.items():
        mean = sum(k * s[name].double() for k, s in zip(w, states, strict=True)) / sum(w)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-6)


def test_weights_may_be_given_one_by_one(tmp_path):
    paths = three(tmp_path)
    argv = (*paths, "--strategy", "none")
    found = merged(*argv, "-w", "1", "-w", "2", "-w", "-2.5", cwd=tmp_path)
    assert same(found, merged(*argv, "-w", "1,2,-2.5", "--force", cwd=tmp_path))


def test_one_model_alone_comes_out_as_it_went_in(tmp_path):
    paths = three(tmp_path)
    found = merged(*paths, "--strategy", "none", "-w", "0,1,0", cwd=tmp_path)
    assert same(found, load(tmp_path / "b.safetensors"))


@pytest.mark.parametrize("strategy", ["star", "many"])
def test_models_in_another_order_merge_to_one_near_the_reference(tmp_path, strategy):
    paths = three(tmp_path)
    found = merged(*paths, "--strategy", strategy, cwd=tmp_path)
    reference = load(tmp_path / "a.safetensors")
    for name, tensor in found.items():
        assert (tensor - reference[name]).abs().max() < 0.2


def test_the_result_is_in_the_order_of_the_reference(tmp_path):
    paths = three(tmp_path)
    found = merged(*paths, "--ref", "c.safetensors", cwd=tmp_path)
    reference = load(tmp_path / "c.safetensors")
    assert max((found[name] - reference[name]).abs().max() for name in found) < 0.2


def test_integers_are_those_of_the_reference(tmp_path):
    pair(tmp_path)
    for name, count in (("a", 5), ("b", 8)):
        path = tmp_path / f"{name}.safetensors"
        save(path, {**load(path), "steps": torch.tensor([count])})
    models = ("a.safetensors", "b.safetensors", "--spec", "mlp")
    assert merged(*models, cwd=tmp_path)["steps"] == 5
    argv = (*models, "--ref", "b.safetensors", "--force")
    assert merged(*argv, cwd=tmp_path)["steps"] == 8


def test_only_the_tensors_asked_for_are_averaged(tmp_path):
    pair(tmp_path)
    models = ("a.safetensors", "b.safetensors", "--strategy", "none")
    found = merged(*models, "--only", "2.*", "--skip", "*.bias", cwd=tmp_path)
    a, b = (load(tmp_path / name) for name in models[:2])
    changed = [name for name in found if not torch.equal(found[name], a[name])]
    assert changed == ["2.weight"]
    torch.testing.assert_close(found["2.weight"], (a["2.weight"] + b["2.weight"]) / 2)


def test_options_that_say_how_to_align_are_told_where_nothing_is_aligned(tmp_path):
    pair(tmp_path)
    models = ("a.safetensors", "b.safetensors", "--strategy", "none", "-f")
    idle = ("--spec", "none", "--model", "net.py:Net", "--data", "net.py:data", "--effort", "best")
    done = rebasin("merge", *models, *idle, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "--spec, --model, options of the search, --data: of no use" in done.err
    assert "of no use" not in rebasin("merge", *models, cwd=tmp_path).err


def test_tensors_that_are_left_out_are_those_of_the_reference(tmp_path):
    pair(tmp_path)
    models = ("a.safetensors", "b.safetensors", "--strategy", "none", "--skip", "2.*")
    found = merged(*models, "--ref", "b.safetensors", cwd=tmp_path)
    a, b = (load(tmp_path / name) for name in models[:2])
    assert torch.equal(found["2.weight"], b["2.weight"])
    torch.testing.assert_close(found["4.weight"], (a["4.weight"] + b["4.weight"]) / 2)


def test_the_default_name_has_the_ending_of_the_first_model(tmp_path):
    save(tmp_path / "a.pt", mlp(1))
    save(tmp_path / "b.safetensors", mlp(2))
    done = rebasin("merge", "a.pt", "b.safetensors", "--strategy", "none", cwd=tmp_path)
    assert done.lines == ["merged.pt"]


def test_half_precision_is_averaged_in_float32(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0 + 2**-7), ("c", 1.0 + 2**-7)):
        save(tmp_path / f"{name}.safetensors", {"w": torch.full((3,), value).bfloat16()})
    paths = [f"{name}.safetensors" for name in "abc"]
    found = merged(*paths, "--strategy", "none", cwd=tmp_path)["w"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.full((3,), 1.0 + 2**-7 * 2 / 3).bfloat16())


def test_the_summary_says_what_was_done(tmp_path):
    paths = three(tmp_path)
    done = rebasin("merge", *paths, cwd=tmp_path)
    assert "3 models merged: each model was aligned to the others in turn" in done.err


def test_a_model_that_is_named_twice_is_counted_twice(tmp_path):
    pair(tmp_path)
    argv = ("a.safetensors", "a.safetensors", "b.safetensors", "--strategy", "none")
    found = merged(*argv, cwd=tmp_path)
    a, b = (load(tmp_path / f"{name}.safetensors") for name in "ab")
    torch.testing.assert_close(found["0.bias"], (2 * a["0.bias"] + b["0.bias"]) / 3)
