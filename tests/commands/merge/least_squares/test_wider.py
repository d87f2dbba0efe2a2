"""`merge --method least-squares --width F`: units that are not alike stand side by side."""

import json

import pytest
import torch
from safetensors import safe_open

from tests.cli.build import load, shuffled
from tests.commands.merge.least_squares.nets import drawn, folder, merge, names, outputs

NETS = {"relu": "rows", "Conv": "images"}


def merged(net, *argv, cwd, data=None):
    done = merge(net, data or NETS[net], *argv, "--json", cwd=cwd)
    assert done.code == 0, done.err
    return load(cwd / "merged.safetensors"), done.events[0]


def widths(net, state):
    if net == "relu":
        return (6, *(len(state[f"{layer}.bias"]) for layer in (0, 2, 4, 6)))
    return tuple(len(state[f"{layer}.weight"]) for layer in ("stem", "left", "fc"))


@pytest.mark.parametrize("net", NETS)
def test_twice_as_wide_it_computes_the_mean_of_what_both_compute(tmp_path, net):
    a, b = drawn(net, 0), drawn(net, 1)
    found, event = merged(net, "--width", "2", cwd=folder(tmp_path, a, b))
    data = NETS[net]
    both = (outputs(net, a, data) + outputs(net, b, data)) / 2
    wide = outputs(net, found, data, widths(net, found))
    assert torch.allclose(wide, both, atol=1e-5 * float(both.abs().max()))
    assert all(after == 2 * before for before, after in event["wider"].values())
    assert (len(event["wider"]), event["narrow"]) == (3, {})


@pytest.mark.parametrize("net", NETS)
def test_a_model_and_its_copy_compute_what_it_does_at_any_width(tmp_path, net):
    a = drawn(net, 0)
    copy = shuffled(a) if net == "relu" else a
    found, event = merged(net, "--width", "1.4", cwd=folder(tmp_path, a, copy))
    expected = outputs(net, a, NETS[net])
    wide = outputs(net, found, NETS[net], widths(net, found))
    assert torch.allclose(wide, expected, atol=1e-5 * float(expected.abs().max()))
    assert event["max_difference"] < 1e-10


def test_the_result_fits_the_class_built_wider_and_says_how_wide(tmp_path):
    folder(tmp_path, drawn("Conv", 0), drawn("Conv", 1))
    done = merge("Conv", "images", "--width", "1.5", "--renormalize", "reset", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "stem 4 -> 6" in done.err
    assert "build the class as wide to load the result" in done.err
    found = load(tmp_path / "merged.safetensors")
    model = names()["Conv"]((6, 9, 15))
    model.load_state_dict(found)
    count = sum(p.numel() for p in model.parameters())
    assert f"{count:,} parameters, " in done.err
    with torch.no_grad():
        units = model.stem(torch.cat(list(names()["images"]())))
    assert torch.allclose(found["norm.running_mean"], units.mean((0, 2, 3)), atol=1e-5)
    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        assert json.loads(file.metadata()["rebasin"])["width"] == 1.5


def test_gated_units_grow_with_their_signs(tmp_path):
    a, b = drawn("Gated", 0), drawn("Gated", 1)
    found, event = merged("Gated", "--width", "2", cwd=folder(tmp_path, a, b), data="rows")
    both = (outputs("Gated", a, "rows") + outputs("Gated", b, "rows")) / 2
    assert torch.allclose(outputs("Gated", found, "rows", 18), both, atol=1e-5)
    assert (event["wider"], event["narrow"]) == ({"gate": [9, 18]}, {})


def test_units_of_one_model_read_none_of_the_other(tmp_path):
    a, b = drawn("relu", 0), drawn("relu", 1)
    found, event = merged("relu", "--width", "2", cwd=folder(tmp_path, a, b))
    for layer, (own, into) in {"2": (11, 8), "4": (9, 11)}.items():
        weight = found[f"{layer}.weight"]
        assert weight.shape == (2 * own, 2 * into)
        assert not weight[:own, into:].any()
        assert not weight[own:, :into].any()
        assert torch.allclose(weight[:own, :into], a[f"{layer}.weight"], atol=1e-5)
    assert event["parameters_ratio"] > 2


def test_half_as_wide_again_units_that_stand_alone_read_none_of_the_other(tmp_path):
    folder(tmp_path, drawn("relu", 0), drawn("relu", 1))
    found, event = merged("relu", "--width", "1.5", cwd=tmp_path)
    assert [*event["wider"].values()] == [[8, 12], [11, 17], [9, 13]]
    unread = found["2.weight"] == 0
    assert unread[11:].sum(1).tolist() == [4] * 6  # of the second model, of the first one's four
    assert unread.sum(1).tolist().count(4) == 12  # six of each model; all others read all
    assert unread.sum() == 48


def test_the_most_alike_are_the_ones_that_are_merged(tmp_path):
    a, noise = drawn("relu", 0), drawn("relu", 1)
    b = dict(a)  # two units of the first layer are others
    for name in ("0.weight", "0.bias"):
        b[name] = a[name].clone()
        b[name][[1, 5]] = noise[name][[1, 5]]
    folder(tmp_path, a, b)
    found, _ = merged("relu", "--width", "1.25", "--strategy", "star", cwd=tmp_path)
    assert torch.allclose(found["0.weight"][8:], b["0.weight"][[1, 5]], atol=1e-5)
    assert torch.allclose(found["0.weight"][:8], a["0.weight"], atol=1e-5)


def test_error_falls_with_the_width(tmp_path):
    folder(tmp_path, drawn("relu", 0), drawn("relu", 1))
    both = [outputs("relu", drawn("relu", seed), "rows") for seed in (0, 1)]
    ensemble, errors = sum(both) / 2, []
    for width in ("1", "1.5", "2"):
        found, _ = merged("relu", "--width", width, "-f", cwd=tmp_path)
        wide = outputs("relu", found, "rows", widths("relu", found))
        errors.append(float((wide - ensemble).square().mean()))
    assert errors[2] < 1e-8 < errors[1] < errors[0]


def test_streams_that_are_normed_and_heads_stay_and_it_says_why(tmp_path):
    folder(tmp_path, drawn("Block", 0), drawn("Block", 1))
    found, event = merged("Block", "--width", "1.5", cwd=tmp_path, data="tokens")
    assert event["wider"] == {"up": [12, 18]}
    reasons = set(event["narrow"].values())
    assert "it has an order of its own for each attn.heads" in reasons
    names()["Block"](18).load_state_dict(found)


def test_a_norm_over_all_units_is_named(tmp_path):
    folder(tmp_path, drawn("Normed", 0), drawn("Normed", 1))
    done = merge("Normed", "rows", "--width", "1.5", cwd=tmp_path)
    assert done.code == 2
    assert "no group of units can become wider" in done.err
    assert "norm (LayerNorm) norms all its units together" in done.err


def test_what_no_module_tells_is_found_by_running_the_model(tmp_path):
    folder(tmp_path, drawn("Softmax", 0), drawn("Softmax", 1))
    _, event = merged("Softmax", "--width", "1.5", cwd=tmp_path, data="rows")
    assert event["narrow"] == {
        "first": "the model computes something else when its units stand twice"
    }
    assert event["wider"] == {"second": [9, 13]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--width", "2.5"), "--width"),
        (("--width", "0.5"), "--width"),
        (("--width", "1.5", "--method", "zipit"), "--width is for --method least-squares"),
        (("--width", "1.5", "--strategy", "none"), "without a spec nothing says which units"),
        (("--width", "1.5", "-w", "1,0"), "with --width every model needs a weight above zero"),
        (("--width", "1.5", "--max-shard-size", "1MB"), "--max-shard-size does not go with"),
        (("--preserve-first", "1"), "--preserve-first permutes units and averages"),
        (("--resume", "list.json"), "--resume lists matches of units"),
        (("--combine", "slerp-n"), "--method least-squares goes with the mean of the models"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, options, said):
    folder(tmp_path, drawn("relu", 0), drawn("relu", 1))
    done = merge("relu", "rows", *options, cwd=tmp_path)
    assert (done.code, said in done.err) == (2, True), done.err
    assert not (tmp_path / "merged.safetensors").exists()


def test_three_models_are_not_made_wider(tmp_path):
    folder(tmp_path, *(drawn("relu", seed) for seed in range(3)))
    files = ("a.safetensors", "b.safetensors", "c.safetensors")
    done = merge("relu", "rows", "--width", "1.5", cwd=tmp_path, files=files)
    assert (done.code, "--width is for two models, not 3" in done.err) == (2, True)
