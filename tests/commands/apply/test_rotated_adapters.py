"""A map file moves a LoRA where that is linear: B <- M B, A <- A diag(gain) M'."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.errors import PermutationError
from tests.cli.harness import rebasin
from tests.commands.apply.owned import applied, moved_model, write_case
from tests.symmetry.rotated_files import store
from tests.symmetry.small import outputs

RANK = 2
EXACT = 1e-10  # relative, of float64
READERS = {"rotary": ("0.q", "1.v", "0.gate", "1.up", "head"), "layer norm": ("0.qkv", "1.up")}
OTHERS = ("1.out", "0.down")


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def lora_of(state, modules):
    """Return the factors of a LoRA; of the embedding too, as PEFT stores those."""
    lora = {}
    for seed, module in enumerate(modules):
        out, into = state[f"{module}.weight"].shape
        ends = ("lora_A.weight", "lora_B.weight")
        if module == "embed":
            (out, into), ends = (into, out), ("lora_embedding_A", "lora_embedding_B")
        lora[f"base_model.model.{module}.{ends[0]}"] = draw(seed, RANK, into)
        lora[f"base_model.model.{module}.{ends[1]}"] = draw(seed + 50, out, RANK)
    return lora


def adapted(state, lora, modules):
    """Return a model with B A added to its weights."""
    found = dict(state)
    for module in modules:
        end = "lora_embedding_" if module == "embed" else "lora_"
        a, b = (
            next(t for n, t in lora.items() if f".{module}.{end}{letter}" in n) for letter in "AB"
        )
        change = b @ a
        found[f"{module}.weight"] = state[f"{module}.weight"] + (
            change.T if module == "embed" else change
        )
    return found


@pytest.mark.parametrize("kind", READERS)
def test_rotating_commutes_with_adapting(kind, tmp_path):
    net, state = write_case(tmp_path, kind, biased=False)
    modules = [*READERS[kind], *OTHERS, "embed"]
    lora = lora_of(state, modules)
    save_file(lora, tmp_path / "lora.safetensors")
    base = tmp_path / "base.safetensors"
    done = applied(tmp_path / "lora.safetensors", tmp_path / "out.safetensors", base=base)
    assert done.belonging.tensors == len(lora)
    new, moved = load_file(tmp_path / "out.safetensors"), moved_model(base)
    store(base, adapted(state, lora, modules))
    wanted, found = moved_model(base), adapted(moved, new, modules)
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=EXACT, atol=EXACT), name
    before = outputs(net, adapted(state, lora, modules))
    assert torch.allclose(outputs(net, found), before, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(outputs(net, adapted(moved, lora, modules)), before, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("layer norm", {}, "the bias '0.one.bias' of the norm before it goes through its weight"),
        ("rotary", {"0.q.lora_magnitude_vector": (24,)}, "only the factors of a LoRA follow"),
        ("rotary", {"0.down.ia3_l": (1, 10)}, "only the factors of a LoRA follow"),
    ],
)
def test_what_is_not_linear_is_refused_with_the_reason(kind, more, said, tmp_path):
    _, state = write_case(tmp_path, kind)
    lora = lora_of(state, [READERS[kind][0]])
    lora |= {f"base_model.model.{n}": draw(0, *shape) for n, shape in more.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    base = tmp_path / "base.safetensors"
    with pytest.raises(PermutationError, match=said) as refused:
        applied(tmp_path / "lora.safetensors", tmp_path / "out.safetensors", base=base)
    assert "hint: merge the adapter into the model, and apply that" in str(refused.value)


def test_maps_need_the_gains_of_the_model(tmp_path):
    _, state = write_case(tmp_path, "rotary")
    save_file(lora_of(state, ["0.q"]), tmp_path / "lora.safetensors")
    done = rebasin("apply", "perm.safetensors", "lora.safetensors", cwd=tmp_path)
    assert done.code == 3
    assert "its maps fold the norms of the model that lora.safetensors belongs to" in done.err
    assert "name that model with --base" in done.err


def test_moments_do_not_follow_a_rotation(tmp_path):
    _, state = write_case(tmp_path, "rotary")
    moments = {"state": {0: {"exp_avg": state["embed.weight"]}}, "param_groups": [{"params": [0]}]}
    torch.save({"model": state, "optimizer": moments}, Path(tmp_path / "run.pt"))
    with pytest.raises(PermutationError, match=r"'optimizer': .* do not follow a rotation"):
        applied(tmp_path / "run.pt", tmp_path / "out.pt")
