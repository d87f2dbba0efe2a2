"""Moved adapters in the hands of the libraries that load them; networks with convolutions."""

import os
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands.apply.owned import applied, moved_model, write_permutation
from tests.library.diffusion import PIECES, SMALL_SD1

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

RANK = 4
PLACES = [
    "down_blocks.0.attentions.0.proj_in",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
]


def draw(seed, *shape):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """Return the folder of a small U-Net, which is in a file too, and the model."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel.from_config(dict(SMALL_SD1)).eval()
    save_file(model.state_dict(), folder / "base.safetensors")
    write_permutation(folder / "base.safetensors", "unet_sd1", PIECES)
    return folder, model


def kohya(state, places=PLACES):
    lora = {}
    for seed, place in enumerate(places):
        out, into, *kernel = state[f"{place}.weight"].shape
        flat = f"lora_unet_{place.replace('.', '_')}"
        lora[f"{flat}.lora_down.weight"] = draw(seed, RANK, into, *kernel)
        lora[f"{flat}.lora_up.weight"] = draw(seed + 50, out, RANK, *(1 for _ in kernel))
        lora[f"{flat}.alpha"] = torch.tensor(float(RANK))
    return lora


def of_diffusers(lora, ends=(".lora_A.weight", ".lora_B.weight")):
    """Return a LoRA of kohya under the names of diffusers."""
    found = {}
    for place in PLACES:
        flat = f"lora_unet_{place.replace('.', '_')}"
        found[f"unet.{place}{ends[0]}"] = lora[f"{flat}.lora_down.weight"]
        found[f"unet.{place}{ends[1]}"] = lora[f"{flat}.lora_up.weight"]
    return found


def adapted(state, lora):
    """Return the tensors of a model with up x down added to its weights."""
    found = dict(state)
    for place in PLACES:
        flat = f"lora_unet_{place.replace('.', '_')}"
        up, down = lora[f"{flat}.lora_up.weight"], lora[f"{flat}.lora_down.weight"]
        change = (up.flatten(1) @ down.flatten(1)).reshape(state[f"{place}.weight"].shape)
        found[f"{place}.weight"] = state[f"{place}.weight"] + change
    return found


def test_convolutions_and_heads_of_a_unet_follow(unet):
    folder, model = unet
    lora = kohya(model.state_dict())
    save_file(lora, folder / "kohya.safetensors")
    applied(folder / "kohya.safetensors", folder / "moved-kohya.safetensors")
    new = load_file(folder / "moved-kohya.safetensors")
    moved = moved_model(folder / "base.safetensors")
    save_file(adapted(model.state_dict(), lora), folder / "adapted.safetensors")
    wanted, found = moved_model(folder / "adapted.safetensors"), adapted(moved, new)
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-5), name
    for ends in ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight")):
        save_file(of_diffusers(lora, ends), folder / "lora.safetensors")
        applied(folder / "lora.safetensors", folder / "moved-lora.safetensors")
        other = load_file(folder / "moved-lora.safetensors")
        assert all(torch.equal(other[n], t) for n, t in of_diffusers(new, ends).items())


@torch.no_grad()
def test_diffusers_loads_what_was_moved_and_the_images_stay(unet):
    pytest.importorskip("peft")
    folder, model = unet
    lora = kohya(model.state_dict())
    save_file(of_diffusers(lora), folder / "peft.safetensors")
    applied(folder / "peft.safetensors", folder / "moved-peft.safetensors")
    permuted = diffusers.UNet2DConditionModel.from_config(dict(SMALL_SD1)).eval()
    permuted.load_state_dict(moved_model(folder / "base.safetensors"))
    plain = diffusers.UNet2DConditionModel.from_config(dict(SMALL_SD1)).eval()
    plain.load_state_dict(model.state_dict())
    inputs = (draw(1, 1, 4, 16, 16), 3, draw(2, 1, 5, SMALL_SD1["cross_attention_dim"]))
    before = plain(*inputs).sample
    for one, name in ((plain, "peft"), (permuted, "moved-peft")):
        one.load_lora_adapter(load_file(folder / f"{name}.safetensors"), prefix="unet")
    wanted = plain(*inputs).sample
    assert (wanted - before).abs().max() > 1e-2
    assert torch.allclose(permuted(*inputs).sample, wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "kind"),
    [*product(("llama", "gpt2"), ("lora", "dora", "ia3")), ("llama", "loha")],  # no LoHa of Conv1D
)
def test_peft_loads_what_was_moved_and_the_logits_stay(tmp_path, family, kind):
    peft = pytest.importorskip("peft")
    model, config = language_model(family, tmp_path)
    save_file(
        {n: t.contiguous() for n, t in model.state_dict().items() if n != "lm_head.weight"},
        tmp_path / "base.safetensors",
    )
    write_permutation(tmp_path / "base.safetensors", *config)
    ids = torch.arange(9)[None] * 3 % 30
    adapter = peft.get_peft_model(model, adapter_config(peft, family, kind)).eval()
    for seed, (name, parameter) in enumerate(adapter.named_parameters()):
        if "default" in name and "magnitude" not in name:
            parameter.add_(draw(seed, *parameter.shape))
    wanted = adapter(ids).logits
    adapter.save_pretrained(tmp_path / "adapter")
    applied(tmp_path / "adapter", tmp_path / "moved", perm=tmp_path / "perm.safetensors")
    other, _ = language_model(family, tmp_path)
    other.load_state_dict(moved_model(tmp_path / "base.safetensors"), strict=False)
    other.tie_weights()
    plain = other(ids).logits
    found = peft.PeftModel.from_pretrained(other, tmp_path / "moved").eval()(ids).logits
    assert (wanted - plain).abs().max() > 1e-2
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4)
    stale, _ = language_model(family, tmp_path)
    stale.load_state_dict(moved_model(tmp_path / "base.safetensors"), strict=False)
    stale.tie_weights()
    wrong = peft.PeftModel.from_pretrained(stale, tmp_path / "adapter").eval()(ids).logits
    assert not torch.allclose(wrong, wanted, rtol=1e-3, atol=1e-3)


def language_model(family, folder):
    """Return a small random model, and the name and sizes of its spec."""
    torch.manual_seed(0)
    if family == "llama":
        config = transformers.LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=30, tie_word_embeddings=True,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).eval(), ("llama", {"kv": 2})
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=30, n_positions=16)
    return transformers.GPT2LMHeadModel(config).eval(), ("gpt2", {"heads": 4})


def adapter_config(peft, family, kind):
    attention = ["q_proj", "o_proj"] if family == "llama" else ["c_attn", "c_proj"]
    inwards = ["down_proj"] if family == "llama" else ["mlp.c_proj"]
    transposed = family == "gpt2"
    if kind == "ia3":
        return peft.IA3Config(
            target_modules=[*attention, *inwards], feedforward_modules=inwards,
            fan_in_fan_out=transposed,
        )  # fmt: skip
    if kind == "loha":
        return peft.LoHaConfig(r=RANK, target_modules=[*attention, *inwards], alpha=64)
    return peft.LoraConfig(
        r=RANK, target_modules=[*attention, *inwards], use_dora=kind == "dora",
        rank_pattern={inwards[0]: 2}, alpha_pattern={inwards[0]: 16}, fan_in_fan_out=transposed,
    )  # fmt: skip
