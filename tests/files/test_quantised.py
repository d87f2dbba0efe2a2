"""Codes are not averaged, nor moved without their scales; plain ones are read as weights."""

import json

import pytest
import torch

from tests.cli.build import load, mlp, same, save, shuffled
from tests.cli.harness import rebasin

I8, U8, I32 = torch.int8, torch.uint8, torch.int32


def codes(dtype, *shape):
    return torch.randint(1, 100, shape).to(dtype)


# The tensors that formats store for a layer `l`, and what they are called.
FORMATS = {
    "GPTQ": {
        "l.qweight": codes(I32, 4, 8),
        "l.qzeros": codes(I32, 1, 8),
        "l.scales": torch.rand(1, 8),
        "l.g_idx": codes(I32, 32),
    },
    "AWQ": {
        "l.qweight": codes(I32, 8, 4),
        "l.qzeros": codes(I32, 1, 4),
        "l.scales": torch.rand(1, 32),
    },
    "bitsandbytes 4-bit": {
        "l.weight": codes(U8, 32, 1),
        "l.weight.absmax": torch.rand(1),
        "l.weight.quant_map": torch.rand(16),
    },
    "bitsandbytes int8": {
        "l.weight": codes(I8, 8, 8),
        "l.SCB": torch.rand(8),
        "l.weight_format": torch.tensor(0, dtype=U8),
    },
    "packed compressed-tensors": {
        "l.weight_packed": codes(I32, 8, 1),
        "l.weight_scale": torch.rand(8, 1),
    },
    "HQQ": {"l.W_q": codes(U8, 4, 8), "l.scale": torch.rand(8, 1), "l.zero": torch.rand(8, 1)},
    "int8 with scales": {"l.weight": codes(I8, 8, 8), "l.weight_scale": torch.rand(8, 1)},
    "fp8 with scales": {
        "l.weight": torch.randn(8, 8).to(torch.float8_e4m3fn),
        "l.weight_scale_inv": torch.rand(1, 1),
    },
    "packed codes with scales": {
        "l.weight": codes(U8, 8, 4),
        "l.weight_scale": torch.rand(8, 2),
        "l.weight_scale_2": torch.rand(1),
    },
    "int8 without scales": {"l.weight": codes(I8, 8, 8)},
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "command", [("lerp", "--at", "1"), ("merge", "--strategy", "none", "-w", "0,1")], ids=" ".join
)
def test_codes_of_one_model_alone_are_written_as_they_are(tmp_path, kind, command):
    states = [
        {name: tensor.roll(shift) for name, tensor in FORMATS[kind].items()} for shift in (0, 1)
    ]
    for name, state in zip("ab", states, strict=True):
        save(tmp_path / f"{name}.safetensors", state)
    name, *rest = command
    argv = (name, "a.safetensors", "b.safetensors", *rest, "-o", "m.safetensors")
    assert rebasin(*argv, cwd=tmp_path).code == 0
    assert same(load(tmp_path / "m.safetensors"), states[1])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("command", [("lerp", "--at", "0.5,1"), ("merge", "--strategy", "none")])
def test_codes_are_not_averaged(tmp_path, kind, command):
    for name in "ab":
        save(tmp_path / f"{name}.safetensors", {"norm.weight": torch.randn(8), **FORMATS[kind]})
    name, *rest = command
    done = rebasin(name, "a.safetensors", "b.safetensors", *rest, "-o", "m/", cwd=tmp_path)
    assert done.code == 3
    assert kind in done.err
    assert next(iter(FORMATS[kind])) in done.err
    assert not (tmp_path / "m.safetensors").exists()


def test_a_config_says_that_narrow_tensors_are_codes(tmp_path):
    for name in "ab":
        save(tmp_path / name / "model.safetensors", {"l.odd": codes(U8, 8, 8), "n": torch.randn(3)})
        config = {"quantization_config": {"quant_method": "newest"}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    done = rebasin("merge", "a", "b", "--strategy", "none", "-o", "m", cwd=tmp_path)
    assert done.code == 3
    assert "newest" in done.err


def test_a_config_that_outlived_its_codes_says_nothing(tmp_path):
    for name in "ab":
        save(tmp_path / name / "model.safetensors", {"l.weight": torch.randn(8, 8)})
        config = {"quantization_config": {"quant_method": "gptq"}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert rebasin("merge", "a", "b", "--strategy", "none", "-o", "m", cwd=tmp_path).code == 0


def by_rows(state):
    """Return a perceptron in int8 with a scale for each row, and what that stands for."""
    stored, meant = dict(state), dict(state)
    for name in [n for n in state if n.endswith("weight")]:
        scale = state[name].abs().amax(1, keepdim=True) / 127
        stored[name] = (state[name] / scale).round().to(torch.int8)
        stored[f"{name}_scale"] = scale
        meant[name] = stored[name].float() * scale
    return stored, meant


def test_a_permuted_model_in_codes_is_aligned_once_it_is_dequantised(tmp_path):
    model = mlp(0)
    stored, meant = by_rows(model)
    save(tmp_path / "a.safetensors", stored)
    save(tmp_path / "b.safetensors", by_rows(shuffled(model))[0])
    done = rebasin("align", "a.safetensors", "b.safetensors", "--spec", "mlp", cwd=tmp_path)
    assert done.code == 3
    assert "0.weight_scale" in done.err
    assert "--dequantize" in done.err
    done = rebasin("align", "a.safetensors", "b.safetensors", "--dequantize", cwd=tmp_path)
    assert done.code == 0
    found = load(tmp_path / "b.aligned.safetensors")
    assert found.keys() == meant.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in meant.items())


@pytest.mark.parametrize("command", ["align", "verify"])
def test_codes_beside_weights_are_told_with_what_reads_them(tmp_path, command):
    save(tmp_path / "a.safetensors", mlp(0))
    save(tmp_path / "b.safetensors", by_rows(mlp(1))[0])
    done = rebasin(command, "a.safetensors", "b.safetensors", cwd=tmp_path)
    assert (done.code, "--dequantize reads them" in done.err) == (3, True)


def test_codes_that_a_spec_forgets_do_not_stay_behind_their_scales(tmp_path):
    lines = ["0.bias: [h]", "0.weight_scale: [h, ~]", "2.weight: [~, h]", "2.bias: [~]"]
    spec = "rebasin: 1\ntensors:\n" + "".join(f"  {line}\n" for line in lines)
    (tmp_path / "forgetful.yaml").write_text(spec)
    for name, seed in (("a", 0), ("b", 1)):
        model = mlp(seed, (6, 8, 4))
        stored = {**model, **{n: t for n, t in by_rows(model)[0].items() if n.startswith("0")}}
        save(tmp_path / f"{name}.safetensors", stored)
    files = "a.safetensors", "b.safetensors"
    done = rebasin("align", *files, "--spec", "forgetful.yaml", cwd=tmp_path)
    assert done.code == 3
    assert "'0.weight', which the spec does not name" in done.err
    whole = spec.replace("tensors:", "tensors:\n  0.weight: [h, ~]")
    (tmp_path / "whole.yaml").write_text(whole)
    assert rebasin("align", *files, "--spec", "whole.yaml", cwd=tmp_path).code == 0


def test_alpha_1_is_what_the_codes_of_the_second_model_stand_for(tmp_path):
    save(tmp_path / "a.safetensors", mlp(0))
    stored, meant = by_rows(mlp(1))
    save(tmp_path / "b.safetensors", stored)
    files = "a.safetensors", "b.safetensors"
    done = rebasin("lerp", *files, "--at", "1", "--dequantize", "-o", "m.safetensors", cwd=tmp_path)
    assert done.code == 0
    found = load(tmp_path / "m.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in meant.items())


PLAIN = ("bitsandbytes int8", "int8 with scales", "fp8 with scales")


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in PLAIN])
def test_what_takes_more_than_scales_is_not_dequantised(tmp_path, kind):
    for name in "ab":
        save(tmp_path / f"{name}.safetensors", FORMATS[kind])
    done = rebasin("merge", "a.safetensors", "b.safetensors", "--dequantize", cwd=tmp_path)
    assert done.code == 3
    assert kind in done.err


def test_a_config_says_that_codes_share_bytes(tmp_path):
    groups = {"group_0": {"weights": {"num_bits": 4}}}
    config = {"quantization_config": {"config_groups": groups}}
    for name in "ab":
        save(tmp_path / name / "model.safetensors", FORMATS["int8 with scales"])
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    done = rebasin("merge", "a", "b", "--dequantize", "-o", "m", cwd=tmp_path)
    assert done.code == 3
    assert "cannot be dequantised" in done.err


def test_the_config_of_what_was_dequantised_speaks_of_codes_no_more(tmp_path):
    config = {"model_type": "x", "dtype": "bfloat16", "quantization_config": {"bits": 8}}
    for name, seed in (("a", 0), ("b", 1)):
        save(tmp_path / name / "model.safetensors", by_rows(mlp(seed))[0])
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    done = rebasin("merge", "a", "b", "--dequantize", "--spec", "mlp", "-o", "m", cwd=tmp_path)
    assert done.code == 0
    kept = json.loads((tmp_path / "m/config.json").read_text())
    assert kept == {"model_type": "x", "dtype": "bfloat16"}
    assert load(tmp_path / "m/model.safetensors")["0.weight"].dtype == torch.bfloat16
