"""`rebasin prune`: the smallest weights of a file become zero, and nothing else changes."""

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from rebasin_cli.commands.prune import run as prune
from rebasin_cli.commands.prune.command import PruneRequest
from rebasin_cli.commands.prune.plan import plan_prune
from rebasin_cli.commands.prune.run import Pruned
from rebasin_cli.progress import silent
from tests.cli.build import load, mlp, save, sharded
from tests.cli.harness import rebasin


def network(dtype=torch.float32):
    """Return tensors of a small network with all that is no weight, and many equal weights."""
    generator = torch.Generator().manual_seed(5)
    state = {
        "embed.weight": torch.randn(7, 6, generator=generator),
        "pos_embed": torch.randn(1, 4, 6, generator=generator),
        "patch_embed.proj.weight": torch.randn(6, 3, 2, 2, generator=generator),
        "fc.weight": torch.randn(9, 6, generator=generator).mul(2).round().div(2),
        "fc.bias": torch.randn(9, generator=generator),
        "norm.weight": torch.randn(9, 2, generator=generator),
        "out.weight": torch.randn(4, 9, generator=generator),
    }
    return {**{n: t.to(dtype) for n, t in state.items()}, "steps": torch.tensor([[3]])}


WEIGHTS = ["fc.weight", "out.weight", "patch_embed.proj.weight"]


def pruned(*argv, cwd, name="m.pruned.safetensors"):
    done = rebasin("prune", "m.safetensors", *argv, cwd=cwd)
    assert (done.code, done.lines) == (0, [name]), done.err
    return load(cwd / name), done


def masks_of(path):
    """Return the masks as the documentation says to read them."""
    with safe_open(path, "pt") as file:
        texts = json.loads(file.metadata()["rebasin.masks"])
        shapes = {name: file.get_slice(name).get_shape() for name in texts}
    raw = {
        n: np.frombuffer(zlib.decompress(base64.b64decode(t)), np.uint8) for n, t in texts.items()
    }
    return {
        n: np.unpackbits(bits)[: np.prod(shapes[n])].reshape(shapes[n]).astype(bool)
        for n, bits in raw.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_smallest_weights_of_all_go_and_every_other_bit_stays(tmp_path, dtype):
    state = network(dtype)
    save(tmp_path / "m.safetensors", state)
    found, done = pruned("--sparsity", "0.8", cwd=tmp_path)
    flat = torch.cat([state[n].double().abs().flatten() for n in WEIGHTS]).numpy()
    kept = np.ones(len(flat), dtype=bool)
    kept[np.argsort(flat, kind="stable")[: round(0.8 * len(flat))]] = False
    masks = masks_of(tmp_path / "m.pruned.safetensors")
    assert sorted(masks) == WEIGHTS
    assert np.array_equal(np.concatenate([masks[n].flatten() for n in WEIGHTS]), kept)
    for name, tensor in state.items():
        keep = torch.tensor(masks.get(name, True))
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], torch.where(keep, tensor, torch.zeros_like(tensor)))
    assert f"{round(0.8 * len(flat))} of {len(flat)} weights (80.25 %) set to zero" in done.err


def test_by_layers_each_tensor_loses_the_same_share(tmp_path):
    save(tmp_path / "m.safetensors", network())
    argv = ("--sparsity", "0.5", "--method", "layer-magnitude")
    _, done = pruned(*argv, cwd=tmp_path)
    masks = masks_of(tmp_path / "m.pruned.safetensors")
    assert {n: mask.sum() for n, mask in masks.items()} == {
        n: network()[n].numel() // 2 for n in WEIGHTS
    }
    assert "the smallest of each of 3 tensors went" in done.err


def test_the_record_says_what_was_done(tmp_path):
    save(tmp_path / "m.safetensors", network())
    argv = ("m.safetensors", "--sparsity", "0.25", "--json")
    (event, _) = rebasin("prune", *argv, cwd=tmp_path).events
    assert (event["weights"], event["kept"], event["masks"]) == (162, 122, True)
    assert [t["name"] for t in event["tensors"]] == WEIGHTS
    assert sum(t["kept"] for t in event["tensors"]) == 122
    with safe_open(tmp_path / "m.pruned.safetensors", "pt") as file:
        record = json.loads(file.metadata()["rebasin"])
    assert (record["command"], record["method"], record["sparsity"]) == ("prune", "magnitude", 0.25)
    assert sum(record["kept"].values()) == 122
    assert set(record["thresholds"].values()) == {event["threshold"]}


def test_only_names_what_is_a_weight_and_skip_what_is_none(tmp_path):
    save(tmp_path / "m.safetensors", network())
    argv = ("m.safetensors", "--sparsity", "0.5", "--json", "-f")
    (event, _) = rebasin("prune", *argv, "--only", "*embed*", cwd=tmp_path).events
    names = ["embed.weight", "patch_embed.proj.weight", "pos_embed"]
    assert [t["name"] for t in event["tensors"]] == names
    (event, _) = rebasin("prune", *argv, "--skip", "fc.*", cwd=tmp_path).events
    assert [t["name"] for t in event["tensors"]] == WEIGHTS[1:]


def test_a_tied_tensor_of_a_pytorch_file_is_pruned_once_and_stays_tied(tmp_path):
    state = network()
    state["again.weight"] = state["fc.weight"]
    torch.save({"model": state, "epoch": 3}, tmp_path / "m.pt")
    done = rebasin("prune", "m.pt", "--sparsity", "0.5", cwd=tmp_path)
    assert done.lines == ["m.pruned.pt"]
    assert "81 of 162 weights (50 %) set to zero" in done.err
    assert "no masks in the metadata: the zeros are the mask" in done.err
    whole = torch.load(tmp_path / "m.pruned.pt", weights_only=True)
    found = whole["model"]
    assert whole["epoch"] == 3
    assert found["again.weight"].data_ptr() == found["fc.weight"].data_ptr()
    assert int(sum((found[n] != 0).sum() for n in WEIGHTS)) <= 81


def test_a_sharded_folder_is_pruned_as_one_model(tmp_path):
    state = mlp(1)
    folder = tmp_path / "m"
    folder.mkdir()
    sharded(folder, state, {"model_type": "none"})
    done = rebasin("prune", "m", "--sparsity", "0.9", cwd=tmp_path)
    assert done.lines == ["m.pruned"], done.err
    shards = sorted((tmp_path / "m.pruned").glob("*.safetensors"))
    found = {n: t for shard in shards for n, t in load(shard).items()}
    total = sum(t.numel() for t in state.values() if t.dim() == 2)
    kept = sum(int((t != 0).sum()) for t in found.values() if t.dim() == 2)
    assert (len(shards), kept) == (2, total - round(0.9 * total))


def test_masks_are_left_out_where_they_do_not_fit(tmp_path, monkeypatch):
    save(tmp_path / "m.safetensors", network())
    monkeypatch.setattr(prune, "MOST", 30)
    plan = plan_prune(PruneRequest(tmp_path / "m.safetensors", sparsity=0.5))
    (outcome,) = prune.run_prune(plan, silent)
    assert isinstance(outcome, Pruned)
    assert not outcome.masks
    with safe_open(tmp_path / "m.pruned.safetensors", "pt") as file:
        assert sorted(file.metadata()) == ["format", "rebasin"]


def test_masks_do_not_follow_a_model_into_what_is_made_of_it(tmp_path):
    save(tmp_path / "m.safetensors", mlp(1))
    pruned("--sparsity", "0.5", cwd=tmp_path)
    argv = ("m.pruned.safetensors", "m.safetensors", "--strategy", "none", "-o", "x.safetensors")
    assert rebasin("merge", *argv, cwd=tmp_path).code == 0
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert "rebasin.masks" not in file.metadata()


def test_a_dry_run_says_how_many_weights_there_are(tmp_path):
    save(tmp_path / "m.safetensors", network())
    done = rebasin("prune", "m.safetensors", "--sparsity", "0.5", "-n", cwd=tmp_path)
    plan = json.loads(done.out)
    assert (plan["command"], plan["weights"], plan["tensors"]) == ("prune", 162, WEIGHTS)
    assert not (tmp_path / "m.pruned.safetensors").exists()


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2", "nan"])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    save(tmp_path / "m.safetensors", network())
    done = rebasin("prune", "m.safetensors", f"--sparsity={share}", cwd=tmp_path)
    assert done.code == 2
    assert "is no share of the weights" in done.err
    assert "0.8 sets four of five to zero" in done.err


def test_an_unknown_method_is_refused(tmp_path):
    save(tmp_path / "m.safetensors", network())
    argv = ("m.safetensors", "--sparsity", "0.5", "--method", "magnitud")
    done = rebasin("prune", *argv, cwd=tmp_path)
    assert done.code == 2
    assert "no value of --method is called 'magnitud'" in done.err
    assert "did you mean 'magnitude'?" in done.err


@pytest.mark.parametrize("argv", [("--only", "*.bias"), ("--skip", "*.weight")])
def test_a_file_without_weights_is_refused(tmp_path, argv):
    save(tmp_path / "m.safetensors", network())
    done = rebasin("prune", "m.safetensors", "--sparsity", "0.5", *argv, cwd=tmp_path)
    assert done.code == 2
    assert "there is no weight to prune" in done.err
    assert "a weight is a floating tensor of two or more axes" in done.err


def test_a_weight_that_is_no_number_is_named(tmp_path):
    state = network()
    state["fc.weight"][2, 3] = float("nan")
    save(tmp_path / "m.safetensors", state)
    done = rebasin("prune", "m.safetensors", "--sparsity", "0.5", cwd=tmp_path)
    assert done.code == 3
    assert "m.safetensors: tensor 'fc.weight' holds NaN or infinity" in done.err
    assert not (tmp_path / "m.pruned.safetensors").exists()
    assert (
        rebasin("prune", "m.safetensors", "--sparsity", "0.5", "--skip", "fc.*", cwd=tmp_path).code
        == 0
    )


CONV = """
import torch
from torch import nn


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 12),
            nn.ReLU(),
            nn.Linear(12, 5),
        )

    def forward(self, x):
        return self.net(x)


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        yield torch.randn(20, 1, 6, 6, generator=generator)
"""
RUN = ("--sparsity", "0.6", "--model", "conv.py:Conv", "--data", "conv.py:batches")


@pytest.fixture
def conv(tmp_path):
    """Write a class, data, and a checkpoint with statistics that are those of the data."""
    (tmp_path / "conv.py").write_text(CONV)
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    exec(CONV, space)
    model = space["Conv"]()
    batch = torch.cat(list(space["batches"]()))
    with torch.no_grad():
        seen = model.net[0](batch)
        model.net[1].running_mean.copy_(seen.mean((0, 2, 3)))
        model.net[1].running_var.copy_(seen.var((0, 2, 3)))
    save(tmp_path / "m.safetensors", model.state_dict())
    return model.eval(), batch


def test_reset_gives_the_pruned_model_its_own_statistics(tmp_path, conv):
    found, done = pruned(*RUN, "--renormalize", "reset", cwd=tmp_path)
    model, batch = conv
    plain, _ = pruned(*RUN[:2], "-o", "x.safetensors", cwd=tmp_path, name="x.safetensors")
    for name in ("net.0.weight", "net.0.bias", "net.4.weight", "net.1.weight"):
        assert torch.equal(found[name], plain[name])
    model.load_state_dict(plain)
    with torch.no_grad():
        seen = model.net[0](batch)
    torch.testing.assert_close(found["net.1.running_mean"], seen.mean((0, 2, 3)))
    torch.testing.assert_close(found["net.1.running_var"], seen.var((0, 2, 3)))
    assert "then renormalized by reset, the dense model its parent" in done.err


@pytest.mark.parametrize("how", ["repair", "rescale"])
def test_corrections_leave_zeros_where_the_masks_say(tmp_path, conv, how):
    found, _ = pruned(*RUN, "--renormalize", how, cwd=tmp_path)
    plain, _ = pruned(*RUN[:2], "-o", "x.safetensors", cwd=tmp_path, name="x.safetensors")
    for name, mask in masks_of(tmp_path / "m.pruned.safetensors").items():
        assert np.array_equal(found[name].numpy() != 0, mask)
    assert not torch.equal(found["net.4.weight"], plain["net.4.weight"])
    with safe_open(tmp_path / "m.pruned.safetensors", "pt") as file:
        assert json.loads(file.metadata()["rebasin"])["renormalize"] == how


def test_all_layers_are_corrected_whatever_was_pruned(tmp_path, conv):
    argv = ("m.safetensors", *RUN, "--renormalize", "rescale", "--only", "net.0.*", "--json")
    (event, _) = rebasin("prune", *argv, cwd=tmp_path).events
    assert [t["name"] for t in event["tensors"]] == ["net.0.weight"]
    assert "net.4" in [layer["name"] for layer in event["renormalized"]["layers"]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (RUN, "--model and --data say nothing to pruning by magnitude"),
        ((*RUN, "--renormalize", "calibrate"), "no value of --renormalize is called 'calibrate'"),
        ((*RUN[:4], "--renormalize", "reset"), "there is no data to run the model on"),
        ((*RUN[:2], "--renormalize", "reset"), "a model has to be run"),
    ],
)
def test_a_correction_needs_a_model_and_data(tmp_path, conv, argv, message):
    done = rebasin("prune", "m.safetensors", *argv, cwd=tmp_path)
    assert done.code == 2
    assert message in done.err
