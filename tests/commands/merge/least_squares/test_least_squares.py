"""`merge --method least-squares`: each layer's weights from what the layers of both models do."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.cli.build import load, mlp, shuffled
from tests.cli.harness import rebasin
from tests.commands.merge.least_squares.nets import FILES, drawn, folder, merge, names


def merged(net, data, *argv, cwd):
    done = merge(net, data, *argv, cwd=cwd)
    assert (done.code, done.lines) == (0, ["merged.safetensors"]), done.err
    return load(cwd / "merged.safetensors"), done


def test_a_model_and_its_permuted_copy_give_the_model_back(tmp_path):
    a = mlp(0)
    found, done = merged("relu", "rows", cwd=folder(tmp_path, a, shuffled(a)))
    for name in a:
        assert torch.allclose(found[name], a[name], atol=1e-6), name
    assert "least squares: 4 layers solved from at least 600 samples" in done.err
    assert "the result computes what no model does: judge it before you use it" in done.err
    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["rebasin"])
    assert facts["method"] == "least-squares"
    assert facts["basin"] is None


def test_two_linear_networks_get_the_weights_that_numpy_finds(tmp_path):
    a, b = drawn("linear", 0), drawn("linear", 1)
    found, _ = merged("linear", "rows", "--strategy", "none", cwd=folder(tmp_path, a, b))
    x = torch.cat(list(names()["rows"]()))
    hidden = [x @ one["0.weight"].T + one["0.bias"] for one in (a, b)]
    returned = [
        h @ one["1.weight"].T + one["1.bias"] for h, one in zip(hidden, (a, b), strict=True)
    ]
    z = torch.cat([(hidden[0] + hidden[1]) / 2, torch.ones(len(x), 1)], 1)
    # 8 units of 6 inputs lie in 7 dimensions with the bias: of many solutions, the nearest
    matrices = [torch.cat([one["1.weight"], one["1.bias"][:, None]], 1) for one in (a, b)]
    start = (matrices[0] + matrices[1]) / 2
    missing = (returned[0] + returned[1]) / 2 - z @ start.T
    step = np.linalg.lstsq(z.numpy(), missing.numpy(), rcond=1e-5)[0]
    expected = start + torch.from_numpy(step).T
    solved = torch.cat([found["1.weight"], found["1.bias"][:, None]], 1)
    assert torch.allclose(solved, expected, atol=5e-3)
    assert not torch.allclose(solved, start, atol=5e-2)
    assert torch.allclose(found["0.weight"], (a["0.weight"] + b["0.weight"]) / 2, atol=1e-6)


@pytest.mark.parametrize("data", ["few", "half"])
def test_data_that_show_little_do_not_make_weights_large(tmp_path, data):
    a, b = drawn("relu", 0), drawn("relu", 1)
    found, _ = merged("relu", data, cwd=folder(tmp_path, a, b))
    for name in a:
        largest = max(a[name].abs().max(), b[name].abs().max())
        assert found[name].abs().max() < 3 * largest, name
    if data == "half":  # what no input shows is the average
        plain = merge("relu", data, "--strategy", "none", "-o", "again.safetensors", cwd=tmp_path)
        assert plain.code == 0, plain.err
        again = load(tmp_path / "again.safetensors")["0.weight"][:, 3:]
        assert torch.allclose(again, (a["0.weight"] + b["0.weight"])[:, 3:] / 2, atol=1e-6)


def test_sums_that_do_not_fit_into_memory_are_refused_before_any_work(tmp_path):
    found = folder(tmp_path, mlp(0), mlp(1))
    done = merge("relu", "rows", "--max-memory", "1KB", "--dry-run", cwd=found)
    assert done.code == 4
    assert "2 models and the sums of 4 layers take about" in done.err
    assert not (tmp_path / "merged.safetensors").exists()


def test_events_say_what_was_solved_and_what_was_averaged(tmp_path):
    folder(tmp_path, drawn("Block", 0), drawn("Block", 1))
    done = merge("Block", "tokens", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    event = done.events[0]
    assert (event["method"], event["width"], event["wider"]) == ("least-squares", 1.0, {})
    assert list(event["solved"]) == ["embed", "up", "down", "head"]
    assert event["averaged"] == {
        "attn": "MultiheadAttention is no linear layer or convolution",
        "attn.out_proj": "the data do not call it",
    }
    for fit in event["solved"].values():
        assert fit["samples"] == 100
        assert 0 <= fit["error"]["after"] <= fit["error"]["before"] + 1e-9
    assert event["solved"]["down"]["error"]["after"] < event["solved"]["down"]["error"]["before"]


def test_experts_that_each_model_sends_other_samples_are_averaged(tmp_path):
    a, b = drawn("Routed", 0), drawn("Routed", 1)
    folder(tmp_path, a, b)
    done = merge("Routed", "rows", "--strategy", "none", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    event, found = done.events[0], load(tmp_path / "merged.safetensors")
    assert list(event["solved"]) == ["gate"]
    assert event["averaged"] == dict.fromkeys(
        ("left", "right"), "the models do not call it on the same samples"
    )
    assert torch.allclose(found["left.weight"], (a["left.weight"] + b["left.weight"]) / 2)


def test_three_models_and_weights_are_taken(tmp_path):
    a, b = drawn("relu", 0), drawn("relu", 1)
    folder(tmp_path, a, shuffled(a, 1), b)
    files = ("a.safetensors", "b.safetensors", "c.safetensors")
    done = merge("relu", "rows", "-w", "1,1,0", cwd=tmp_path, files=files)
    assert done.code == 0, done.err
    found = load(tmp_path / "merged.safetensors")
    assert all(torch.allclose(found[name], a[name], atol=1e-5) for name in a)


def test_batch_norm_is_reset_if_asked_and_else_a_hint_says_so(tmp_path):
    folder(tmp_path, drawn("Conv", 0), drawn("Conv", 1))
    done = merge("Conv", "images", "-o", "plain.safetensors", cwd=tmp_path)
    assert (done.code, "renormalize plain.safetensors --method reset" in done.err) == (0, True)
    found, _ = merged("Conv", "images", "--renormalize", "reset", cwd=tmp_path)
    model = names()["Conv"]()
    model.load_state_dict(found)
    with torch.no_grad():
        units = model.stem(torch.cat(list(names()["images"]())))
    assert torch.allclose(found["norm.running_mean"], units.mean((0, 2, 3)), atol=1e-5)
    done = merge("Conv", "images", "--renormalize", "repair", cwd=tmp_path)
    assert (done.code, "only their BatchNorm can be corrected" in done.err) == (2, True)


def test_what_is_skipped_is_that_of_the_reference(tmp_path):
    a, b = drawn("relu", 0), drawn("relu", 1)
    done = merge("relu", "rows", "--skip", "6.bias", "--json", cwd=folder(tmp_path, a, b))
    assert done.code == 0, done.err
    assert torch.equal(load(tmp_path / "merged.safetensors")["6.bias"], a["6.bias"])
    assert done.events[0]["averaged"] == {"6": "its tensors are not averaged whole"}


def test_activations_that_are_not_finite_are_told(tmp_path):
    a, b = drawn("relu", 0), drawn("relu", 1)
    folder(tmp_path, {**a, "0.weight": a["0.weight"] * 1e38, "2.weight": a["2.weight"] * 1e38}, b)
    done = merge("relu", "rows", "--strategy", "none", cwd=tmp_path)
    assert (done.code, "what layer '4' reads or returns is NaN or infinite" in done.err) == (
        3,
        True,
    )
    assert not (tmp_path / "merged.safetensors").exists()


def test_bfloat16_stays_bfloat16(tmp_path):
    a, b = ({n: t.bfloat16() for n, t in drawn("relu", seed).items()} for seed in (0, 1))
    found, _ = merged("relu", "rows", cwd=folder(tmp_path, a, b))
    assert {t.dtype for t in found.values()} == {torch.bfloat16}


def test_the_plan_says_what_would_be_solved(tmp_path):
    folder(tmp_path, drawn("relu", 0), drawn("relu", 1))
    done = merge("relu", "rows", "--width", "1.5", "--dry-run", cwd=tmp_path)
    plan = json.loads(done.out)
    assert plan["solved"] == ["0", "2", "4", "6"]
    assert (plan["method"], plan["width"]) == ("least-squares", 1.5)
    assert sorted(plan["apart"].values()) == [4, 4, 6]  # of 8, 9 and 11 units


def test_without_data_or_without_layers_it_says_what_is_missing(tmp_path):
    folder(tmp_path, drawn("relu", 0), drawn("relu", 1))
    method = ("merge", *FILES, "--method", "least-squares")
    done = rebasin(*method, "--model", "net.py:relu", cwd=tmp_path)
    assert (done.code, "there is no data to run the model on" in done.err) == (2, True)
    done = rebasin(*method, cwd=tmp_path)
    assert (done.code, "a model has to be run" in done.err) == (2, True)
    done = merge("relu", "rows", "--skip", "*.bias", cwd=tmp_path)
    assert (done.code, "there is no layer whose weights could be solved" in done.err) == (2, True)
