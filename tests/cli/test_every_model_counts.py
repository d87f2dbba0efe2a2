"""What matters is decided from all models and all tensors: no function is broken with exit code 0.

A spec is bound to what the models have together. Settings that shapes do not show are compared, and
what is left out, missing in a model or unnamed keeps the units that it could hold in place.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.cli.build import State, load, mlp, near, pair, same, save, shuffled
from tests.cli.harness import Done, rebasin
from tests.models import EXAMPLES, outputs

LLAMA = EXAMPLES["llama"]
CONFIG = {
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}
ALIGN = ("align", "a", "b", "-o", "out")


def llama(folder: Path, seed: int, config: object = None, **more: Tensor) -> State:
    """Write a Llama as a folder, with a config.json if there is one."""
    state = {**LLAMA.model(seed).state_dict(), **more}
    save(folder / "model.safetensors", {n: t.float().contiguous() for n, t in state.items()})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return load(folder / "model.safetensors")


def run(folder: Path, *argv: str) -> Done:
    return rebasin(*argv, cwd=folder)


# settings that shapes do not show


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 24),
        ("num_key_value_heads", 2),
        ("head_dim", 12),
        ("hidden_act", "gelu"),
        ("rope_theta", 500000.0),
        ("norm_type", "layernorm"),
    ],
)
@pytest.mark.parametrize("argv", [ALIGN, ("merge", "a", "b", "-o", "out")], ids=("align", "merge"))
def test_a_model_with_another_setting_is_refused_and_both_are_named(tmp_path, argv, key, value):
    llama(tmp_path / "a", 1, {"norm_type": "rmsnorm", "rope_type": "default", **CONFIG})
    llama(tmp_path / "b", 2, {"norm_type": "rmsnorm", **CONFIG, key: value})
    done = run(tmp_path, *argv)
    assert done.code == 3
    before = {"norm_type": "rmsnorm", **CONFIG}[key]
    assert "b: its config.json is not that of a" in done.err
    assert f"{key} is {value!r}, there {before!r}" in done.err
    assert not (tmp_path / "out").exists()


def test_a_setting_that_one_does_not_tell_is_warned_of(tmp_path):
    llama(tmp_path / "a", 1, CONFIG)
    llama(tmp_path / "b", 2, {**CONFIG, "rope_scaling": {"type": "linear", "factor": 4.0}})
    done = run(tmp_path, *ALIGN)
    assert done.code == 0
    assert "b and a differ in config.json: rope_factor is 4.0, there not said" in done.err


@pytest.mark.parametrize(("key", "value"), [("rms_norm_eps", 1e-6), ("attention_dropout", 0.1)])
def test_a_small_difference_of_settings_is_warned_of(tmp_path, key, value):
    llama(tmp_path / "a", 1, CONFIG)
    llama(tmp_path / "b", 2, {**CONFIG, key: value})
    done = run(tmp_path, *ALIGN, "--json")
    said = f"b and a differ in config.json: {key} is {value!r}, there {CONFIG[key]!r}"
    assert done.code == 0
    assert f"warning: {said}" in done.err
    assert [e["message"] for e in done.events if e["event"] == "warning"] == [said]


@pytest.mark.parametrize(
    ("key", "value", "other"),
    [
        ("num_experts_per_tok", 2, 4),
        ("scale_attn_weights", True, False),
        ("is_decoder", False, True),
    ],
)
def test_a_switch_is_warned_of_where_both_tell_it(tmp_path, key, value, other):
    llama(tmp_path / "a", 1, {**CONFIG, key: value})
    llama(tmp_path / "b", 2, {**CONFIG, key: other})
    llama(tmp_path / "older", 2, CONFIG)
    done = run(tmp_path, *ALIGN)
    assert done.code == 0
    assert f"b and a differ in config.json: {key} is {other!r}, there {value!r}" in done.err
    done = run(tmp_path, "align", "a", "older", "-o", "out2")
    assert (done.code, "config.json" in done.err) == (0, False)


def test_what_says_nothing_of_the_network_is_not_compared(tmp_path):
    llama(tmp_path / "a", 1, {**CONFIG, "_name_or_path": "x", "transformers_version": "4"})
    llama(tmp_path / "b", 2, {**CONFIG, "use_cache": False, "torch_dtype": "float16"})
    assert "warning" not in run(tmp_path, *ALIGN).err


def test_rotary_settings_are_the_same_in_the_old_form_and_the_new(tmp_path):
    llama(tmp_path / "a", 1, CONFIG)
    new = {key: value for key, value in CONFIG.items() if key != "rope_theta"}
    new["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default"}
    llama(tmp_path / "b", 2, new)
    assert "warning" not in run(tmp_path, *ALIGN).err


def test_sizes_come_from_whichever_model_tells_them(tmp_path):
    llama(tmp_path / "a", 1)
    b = llama(tmp_path / "b", 2, CONFIG)
    assert run(tmp_path, *ALIGN).code == 0
    assert computes_the_same(b, load(tmp_path / "out" / "model.safetensors"))


def test_a_size_that_a_spec_takes_from_the_configuration_is_compared_whatever_its_key(tmp_path):
    state = {"up.weight": torch.randn(12, 3), "down.weight": torch.randn(2, 12)}
    (tmp_path / "s.yaml").write_text(
        "rebasin: 1\nsizes: {teams: config.crew}\ngroups: {g: {per: team}, team: {size: teams}}\n"
        "tensors: {up.weight: ['team * g', ~], down.weight: [~, 'team * g']}\n"
    )
    for name, crew in (("a", 3), ("b", 4)):
        save(tmp_path / name / "model.safetensors", state)
        (tmp_path / name / "config.json").write_text(json.dumps({"crew": crew}))
    done = run(tmp_path, *ALIGN, "--spec", "s.yaml")
    assert done.code == 3
    assert "crew is 4, there 3" in done.err


def test_a_permutation_is_not_applied_to_a_model_of_another_configuration(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        llama(tmp_path / name, seed, CONFIG)
    llama(tmp_path / "c", 3, {**CONFIG, "num_attention_heads": 24})
    assert run(tmp_path, *ALIGN, "--save-permutation", "p.safetensors").code == 0
    assert run(tmp_path, "apply", "p.safetensors", "b", "-o", "fine").code == 0
    done = run(tmp_path, "apply", "p.safetensors", "c", "-o", "broken")
    assert done.code == 3
    assert "num_attention_heads is 24, there 12" in done.err


# tensors that not all models have


def computes_the_same(one: State, other: State) -> bool:
    """Tell whether two Llamas compute the same in float64."""
    batch = LLAMA.batch()
    results = []
    for state in (one, other):
        model = LLAMA.model(0)
        model.load_state_dict({n: t.double() for n, t in state.items()}, strict=False)
        results.append(outputs(model, batch))
    return all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*results, strict=True))


def test_what_only_one_model_has_holds_the_units_it_reads(tmp_path):
    llama(tmp_path / "a", 1, CONFIG)
    whole = load(tmp_path / "a" / "model.safetensors")
    head = next(name for name in whole if "lm_head" in name)
    save(tmp_path / "a" / "model.safetensors", {n: t for n, t in whole.items() if n != head})
    b = llama(tmp_path / "b", 2, CONFIG)
    for skip in ((), ("--skip", head)):
        done = run(tmp_path, *ALIGN, *skip, "-f", "--json")
        moved = {group["name"]: group["moved"] for group in done.events[-2]["groups"]}
        assert done.code == 0
        assert ("not in both a and b" in done.err) is not bool(skip)
        assert computes_the_same(b, load(tmp_path / "out" / "model.safetensors"))
        assert moved["stream"] == 0 < sum(moved.values())


# tensors that a spec does not name


def with_adapter(state: State, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(3, 8, generator=generator)
    return {**state, "2.lora_A.weight": low, "2.lora_B.weight": torch.randn(11, 3)}


def with_scales(state: State, seed: int) -> State:
    return {
        **state,
        "2.weight_scale": torch.rand(11, generator=torch.Generator().manual_seed(seed)),
    }


def with_mask(state: State, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {**state, "2.weight_mask": torch.rand(11, 8, generator=generator) > 0.5}


def with_block_scales(state: State, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {**state, "2.weight_scale_inv": torch.rand(2, 1, generator=generator)}


EXTRAS = {
    "adapter": (with_adapter, "2.lora*"),
    "scales": (with_scales, "2.weight_scale"),
    "mask": (with_mask, "2.weight_mask"),
    "block scales": (with_block_scales, "2.weight_scale_inv"),
}


def two(folder: Path, extra) -> State:
    state = mlp(1)
    save(folder / "a.safetensors", extra(state, 1))
    return save_and_load(folder / "b.safetensors", extra(near(shuffled(state), 2), 2))


def save_and_load(path: Path, state: State) -> State:
    return load(save(path, state))


FILES = ("align", "a.safetensors", "b.safetensors")


@pytest.mark.parametrize("kind", EXTRAS)
@pytest.mark.parametrize("spec", [("--spec", "mlp"), ()], ids=("named", "chosen"))
def test_a_tensor_that_the_spec_does_not_name_is_refused(tmp_path, kind, spec):
    extra, _ = EXTRAS[kind]
    two(tmp_path, extra)
    done = run(tmp_path, *FILES, *spec)
    assert done.code == (3 if spec else 2)
    assert not (tmp_path / "b.aligned.safetensors").exists()
    if spec:
        assert "spec 'mlp' does not name" in done.err
        assert "leaves them and all units that they could hold in place" in done.err


@pytest.mark.parametrize("kind", EXTRAS)
@pytest.mark.parametrize("spec", [("--spec", "mlp"), ()], ids=("named", "chosen"))
def test_left_out_it_holds_the_units_that_it_could_hold(tmp_path, kind, spec):
    extra, glob = EXTRAS[kind]
    b = two(tmp_path, extra)
    done = run(tmp_path, *FILES, *spec, "--skip", glob, "--json")
    assert done.code == 0
    moved = {group["name"]: group["moved"] for group in done.events[1]["groups"]}
    aligned = load(tmp_path / "b.aligned.safetensors")
    assert (moved["hidden.0"], moved["hidden.2"]) == (0, 0)
    assert moved["hidden.4"] > 0
    assert torch.equal(aligned["2.weight"], b["2.weight"])


def test_units_may_lie_several_times_on_an_axis(tmp_path):
    two(tmp_path, lambda state, seed: {**state, "readout": torch.full((5, 22), float(seed))})
    done = run(tmp_path, *FILES, "--spec", "mlp", "--skip", "readout", "--json")
    moved = {group["name"]: group["moved"] for group in done.events[1]["groups"]}
    assert moved["hidden.2"] == 0  # of 11 units
    assert moved["hidden.0"] > 0
    assert moved["hidden.4"] > 0


@pytest.mark.parametrize("kind", EXTRAS)
def test_it_does_not_pass_where_it_could_hold_units_that_move(tmp_path, kind):
    extra, glob = EXTRAS[kind]
    two(tmp_path, extra)
    done = run(tmp_path, *FILES, "--spec", "mlp", "--pass-through", glob)
    assert done.code == 3
    assert "could hold units of hidden." in done.err
    assert not (tmp_path / "b.aligned.safetensors").exists()


@pytest.mark.parametrize("spec", [("--spec", "mlp"), ()], ids=("named", "chosen"))
def test_it_passes_where_nothing_of_its_shape_moves(tmp_path, spec):
    two(tmp_path, lambda state, seed: {**state, "positions": torch.full((5, 3), float(seed))})
    argv = (*FILES, *spec, "--save-permutation", "p.safetensors")
    done = run(tmp_path, *argv, "--pass-through", "positions")
    assert done.code == 0
    assert "1 tensor not named by the spec: unchanged (" in done.err
    applied = run(tmp_path, "apply", "p.safetensors", "b.safetensors", "-o", "c.safetensors")
    assert applied.code == 0
    assert same(load(tmp_path / "c.safetensors"), load(tmp_path / "b.aligned.safetensors"))


@pytest.mark.parametrize("kind", [kind for kind in EXTRAS if kind != "adapter"])
def test_a_permutation_is_not_applied_to_what_it_does_not_know(tmp_path, kind):
    extra, glob = EXTRAS[kind]
    pair(tmp_path)
    assert run(tmp_path, *FILES, "--save-permutation", "p.safetensors").code == 0
    save(tmp_path / "c.safetensors", extra(load(tmp_path / "b.safetensors"), 1))
    for argv in ((), ("--pass-through", glob)):
        done = run(tmp_path, "apply", "p.safetensors", "c.safetensors", *argv)
        assert done.code == 3
    assert not (tmp_path / "c.permuted.safetensors").exists()
