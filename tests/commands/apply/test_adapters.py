"""Adapters follow their model: the adapted model permuted is the permuted model adapted."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rebasin_cli.adapters.along_axes import along_axes
from rebasin_cli.adapters.module_names import module_names
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.errors import PermutationError, RebasinWarning, UsageError
from rebasin_cli.permuted import take
from tests.cli.harness import rebasin
from tests.commands.apply.owned import applied, moved_model, write_permutation
from tests.models.llama import KV_HEADS, Llama
from tests.proof import draw as draw_moves
from tests.spec.shapes import bound, head

RANK, SCALE = 3, 0.5
LAYERS = [
    f"model.layers.{i}.{name}"
    for i in range(2)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")
] + ["model.layers.0.mlp.up_proj"]  # whose units have a sign each


def close(a, b):
    """Return whether two tensors are one to the rounding of float32."""
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def llama(tmp_path):
    """Return the folder of a small Llama with grouped queries, and its tensors."""
    torch.manual_seed(0)
    state = {n: t.contiguous() for n, t in Llama().state_dict().items()}
    save_file(state, tmp_path / "base.safetensors")
    write_permutation(tmp_path / "base.safetensors", "llama", {"kv": KV_HEADS})
    return tmp_path, state


def write_peft(folder, state, modules, *, end=".weight", more=None, config=None):
    """Write a LoRA as PEFT does, and return its tensors."""
    lora = dict(more or {})
    for seed, module in enumerate(modules):
        out, into = state[f"{module}.weight"].shape
        name = f"base_model.model.{module}"
        lora[f"{name}.lora_A{end}"] = draw(seed, RANK, into)
        lora[f"{name}.lora_B{end}"] = draw(seed + 100, out, RANK)
    folder.mkdir()
    save_file(lora, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config or {"peft_type": "LORA"}))
    return lora


def change(lora, module, end=".weight"):
    name = f"base_model.model.{module}"
    return SCALE * lora[f"{name}.lora_B{end}"] @ lora[f"{name}.lora_A{end}"]


def assert_commutes(folder, state, deltas, moved_deltas):
    """Check that adapting and then permuting a model is permuting and then adapting it."""
    adapted = {n: t + deltas[n] if n in deltas else t for n, t in state.items()}
    save_file(adapted, folder / "adapted.safetensors")
    wanted, moved = (
        moved_model(folder / "adapted.safetensors"),
        moved_model(folder / "base.safetensors"),
    )
    for name, delta in moved_deltas.items():
        assert close(wanted[name], moved[name] + delta), name
        assert not close(wanted[name], moved[name] + deltas[name]), name


@pytest.mark.parametrize("end", [".weight", ".other.weight"])
def test_a_lora_of_peft_follows_grouped_queries_heads_and_stream(llama, end):
    folder, state = llama
    lora = write_peft(folder / "lora", state, LAYERS, end=end)
    done = applied(folder / "lora", folder / "out", perm=folder / "perm.safetensors")
    new = load_file(folder / "out" / "adapter_model.safetensors")
    assert (done.belonging.tensors, done.belonging.moved) == (len(lora), len(lora))
    assert_commutes(
        folder,
        state,
        {f"{m}.weight": change(lora, m, end) for m in LAYERS},
        {f"{m}.weight": change(new, m, end) for m in LAYERS},
    )


def test_the_inverse_brings_back_every_bit_and_the_configuration_is_copied(llama):
    folder, state = llama
    lora = write_peft(folder / "lora", state, LAYERS, config={"r": 3, "rank_pattern": {"k": 1}})
    argv = ("apply", "perm.safetensors")
    done = rebasin(*argv, "lora", cwd=folder)
    assert done.code == 0, done.err
    assert done.lines == ["lora.permuted"]
    assert "18 of 18 tensors of the adapter moved" in done.err
    again = rebasin(*argv, "lora.permuted", "--inverse", "-o", "back", "--json", cwd=folder)
    assert again.code == 0, again.err
    event = next(e for e in again.events if e["event"] == "result")
    assert (event["kind"], event["tensors"], event["tensors_moved"]) == ("adapter", 18, 18)
    back = load_file(folder / "back" / "adapter_model.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in lora.items())
    config = json.loads((folder / "back" / "adapter_config.json").read_text())
    assert config == {"r": 3, "rank_pattern": {"k": 1}}


def test_what_stands_beside_the_factors_follows_too(llama):
    folder, state = llama
    q, down, embed = LAYERS[0], LAYERS[3], "model.embed_tokens"
    name = "base_model.model."
    out, into = state[f"{down}.weight"].shape
    vocabulary, dim = state[f"{embed}.weight"].shape
    more = {
        f"{name}{q}.lora_magnitude_vector": draw(1, state[f"{q}.weight"].shape[0]),
        f"{name}{embed}.lora_embedding_A": draw(2, RANK, vocabulary),
        f"{name}{embed}.lora_embedding_B": draw(3, dim, RANK),
        f"{name}{embed}.token_adapter.trainable_tokens_delta": draw(4, 2, dim),
        f"{name}{down}.ia3_l": draw(5, 1, into),
        f"{name}{LAYERS[1]}.ia3_l": draw(6, state[f"{LAYERS[1]}.weight"].shape[0], 1),
        f"{name}lm_head.modules_to_save.weight": draw(7, *state["lm_head.weight"].shape),
        f"{name}{down}.hada_w1_a": draw(8, out, RANK),
        f"{name}{down}.hada_w1_b": draw(9, RANK, into),
        f"{name}{down}.alpha": torch.tensor(4.0),
    }
    write_peft(folder / "lora", state, [q], more=more)
    applied(folder / "lora", folder / "out", perm=folder / "perm.safetensors")
    new = load_file(folder / "out" / "adapter_model.safetensors")

    def scaled(found):
        """Return what the vectors and factors make of the weights, as full tensors."""
        return {
            f"{q}.weight": found[f"{name}{q}.lora_magnitude_vector"][:, None] * torch.ones(1, 20),
            f"{embed}.weight": (
                found[f"{name}{embed}.lora_embedding_B"] @ found[f"{name}{embed}.lora_embedding_A"]
            ).T,
            f"{down}.weight": found[f"{name}{down}.ia3_l"]
            * (found[f"{name}{down}.hada_w1_a"] @ found[f"{name}{down}.hada_w1_b"]),
            f"{LAYERS[1]}.weight": found[f"{name}{LAYERS[1]}.ia3_l"] * torch.ones(1, 20),
            "lm_head.weight": found[f"{name}lm_head.modules_to_save.weight"],
        }

    assert_commutes(
        folder,
        state,
        scaled(more | load_file(folder / "lora/adapter_model.safetensors")),
        scaled(new),
    )
    rows = f"{name}{embed}.token_adapter.trainable_tokens_delta"
    moved, before = moved_model(folder / "base.safetensors"), state["lm_head.weight"]
    order = [
        int((before == column[:, None]).all(0).nonzero()) for column in moved["lm_head.weight"].T
    ]
    assert torch.equal(new[rows], more[rows][:, order])
    assert torch.equal(new[f"{name}{down}.alpha"], more[f"{name}{down}.alpha"])


def test_a_file_of_kohya_names_modules_by_underscores(llama):
    folder, state = llama
    q = LAYERS[0]
    out, into = state[f"{q}.weight"].shape
    flat = "lora_te_" + q.removeprefix("model.").replace(".", "_")
    lora = {
        f"{flat}.lora_down.weight": draw(0, RANK, into),
        f"{flat}.lora_up.weight": draw(1, out, RANK),
        f"{flat}.alpha": torch.tensor(1.0),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": draw(2, 8, RANK),
        "lora_unet_mid_block_attentions_0_proj_out.lora_up.weight": draw(3, 8, RANK),
    }
    save_file(lora, folder / "kohya.safetensors")
    done = applied(folder / "kohya.safetensors", folder / "out.safetensors")
    new = load_file(folder / "out.safetensors")
    assert len(done.belonging.foreign) == 2
    assert all(torch.equal(new[name], lora[name]) for name in done.belonging.foreign)
    products = [t[f"{flat}.lora_up.weight"] @ t[f"{flat}.lora_down.weight"] for t in (lora, new)]
    assert_commutes(folder, state, {f"{q}.weight": products[0]}, {f"{q}.weight": products[1]})


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("model.layers.7.mlp.up_proj.lora_A.weight", (3, 20), "has no such tensor"),
        ("model.layers.0.mlp.up_proj.lokr_w1", (2, 2), "LoKr"),
        ("model.layers.0.mlp.up_proj.lora_A.weight", (3, 21), "does not fit"),
        ("model.layers.0.mlp.up_proj.vera_lambda_b", (28,), "VeRA"),
    ],
)
def test_what_follows_nothing_is_named_and_refused_or_kept(llama, name, shape, said):
    folder, state = llama
    odd = f"base_model.model.{name}"
    write_peft(folder / "lora", state, LAYERS[:1], more={odd: draw(0, *shape)})
    perm = folder / "perm.safetensors"
    with pytest.raises(PermutationError, match=said) as refused:
        applied(folder / "lora", folder / "out", perm=perm)
    assert odd in str(refused.value)
    assert "--keep-unknown leaves it as it is" in str(refused.value)
    with pytest.warns(RebasinWarning, match=f"in the order of the old weights: {odd}"):
        done = applied(folder / "lora", folder / "out", perm=perm, keep_unknown=True)
    assert done.belonging.kept == (odd,)
    new = load_file(folder / "out" / "adapter_model.safetensors")
    assert torch.equal(new[odd], draw(0, *shape))


def test_an_adapter_of_which_no_tensor_can_follow_is_refused_however_many_it_has(llama):
    folder, state = llama
    names = [f"base_model.model.{n.removesuffix('.weight')}" for n in state]
    more = {f"{name}.lokr_{end}": draw(0, 2, 2) for name in names for end in ("w1", "w2", "t2")}
    write_peft(folder / "lokr", state, [], more=more)
    done = rebasin("apply", "perm.safetensors", "lokr", cwd=folder)
    assert (done.code, "LoKr: units are in both factors" in done.err) == (3, True)


def test_norms_that_were_tuned_follow_as_whole_tensors(llama):
    folder, state = llama
    norm = "model.layers.0.input_layernorm"
    name = f"base_model.model.{norm}.ln_tuning_layers.weight"
    write_peft(folder / "tuned", state, [], more={name: state[f"{norm}.weight"]})
    applied(folder / "tuned", folder / "out", perm=folder / "perm.safetensors")
    new = load_file(folder / "out" / "adapter_model.safetensors")
    assert torch.equal(new[name], moved_model(folder / "base.safetensors")[f"{norm}.weight"])


def test_adapters_of_a_head_that_is_the_embedding_follow_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 4, "vocab_size": 11}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    model.save_pretrained(tmp_path / "m")
    perm = write_permutation(tmp_path / "m" / "model.safetensors", "gpt2", {"heads": 2})
    head, rows = "base_model.model.lm_head", draw(1, 11, RANK)
    embedding = model.transformer.wte.weight.detach()
    more = {
        f"{head}.modules_to_save.weight": embedding.clone(),
        f"{head}.lora_A.weight": embedding[:RANK].clone(),
        f"{head}.lora_B.weight": rows,
    }
    write_peft(tmp_path / "lora", {}, [], more=more)
    applied(tmp_path / "lora", tmp_path / "out", perm=perm)
    new = load_file(tmp_path / "out" / "adapter_model.safetensors")
    moved = moved_model(tmp_path / "m" / "model.safetensors")["transformer.wte.weight"]
    assert not torch.equal(moved, embedding)
    assert torch.equal(new[f"{head}.modules_to_save.weight"], moved)
    assert torch.equal(new[f"{head}.lora_A.weight"], moved[:RANK])
    assert torch.equal(new[f"{head}.lora_B.weight"], rows)


def test_modules_have_the_names_that_their_class_gives_them(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text = {**sizes, "model_type": "llama", "num_attention_heads": 2, "vocab_size": 11}
    seen = {**sizes, "model_type": "clip_vision_model", "num_attention_heads": 2, "image_size": 8}
    config = transformers.LlavaConfig(text_config=text, vision_config={**seen, "patch_size": 4})
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "m")
    with open_checkpoint(tmp_path / "m") as model:
        names, stored = module_names(model), set(model.names())
    up = "layers.0.mlp.up_proj.weight"
    assert names[f"model.language_model.{up}"] == f"language_model.model.{up}"
    assert names["lm_head.weight"] == "language_model.lm_head.weight"
    assert set(names.values()) == stored


def test_an_older_permutation_file_asks_for_the_model(llama, tmp_path):
    folder, state = llama
    write_peft(folder / "lora", state, LAYERS[:1])
    with safe_open(folder / "perm.safetensors", "pt") as file:
        told = {k: v for k, v in file.metadata().items() if k != "rebasin.tensors"}
    save_file(load_file(folder / "perm.safetensors"), folder / "old.safetensors", told)
    done = rebasin("apply", "old.safetensors", "lora", "-o", "out", cwd=folder)
    assert done.code == 3
    assert "does not say which tensors its model has" in done.err
    assert "--base" in done.err
    argv = ("apply", "old.safetensors", "lora", "-o", "out", "--base", "base.safetensors")
    assert rebasin(*argv, cwd=folder).code == 0
    applied(folder / "lora", folder / "new", perm=folder / "perm.safetensors")
    files = (folder / name / "adapter_model.safetensors" for name in ("out", "new"))
    one, other = map(load_file, files)
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


def test_other_commands_name_the_one_that_moves_adapters(llama):
    folder, state = llama
    write_peft(folder / "lora", state, LAYERS[:1])
    done = rebasin("inspect", "lora", cwd=folder)
    assert done.code == 3
    assert "`rebasin apply PERM FOLDER` moves it along with its model" in done.err


def test_a_model_needs_no_base(llama):
    folder, _ = llama
    base = folder / "base.safetensors"
    with pytest.raises(UsageError, match="leave out --base"):
        applied(base, folder / "out.safetensors", base=base)


def test_a_copy_of_some_tensors_follows_as_masks_and_gradients_do(llama):
    folder, state = llama
    masks = {f"{m}.weight": draw(k, *state[f"{m}.weight"].shape) > 0 for k, m in enumerate(LAYERS)}
    save_file(masks, folder / "masks.safetensors")
    done = applied(folder / "masks.safetensors", folder / "out.safetensors")
    assert (done.belonging.kind, done.belonging.moved) == ("copy of tensors", len(LAYERS))
    new, moved = load_file(folder / "out.safetensors"), moved_model(folder / "base.safetensors")
    save_file({n: t * masks.get(n, 1) for n, t in state.items()}, folder / "cut.safetensors")
    cut = moved_model(folder / "cut.safetensors")
    assert all(torch.equal(cut[name], moved[name] * mask) for name, mask in new.items())
    assert not all(torch.equal(new[name], mask) for name, mask in masks.items())


def test_adapters_are_not_cut_into_shards(llama):
    folder, state = llama
    write_peft(folder / "lora", state, LAYERS[:1])
    argv = ("apply", "perm.safetensors", "lora", "-o", "out", "--max-shard-size", "1KB")
    done = rebasin(*argv, cwd=folder)
    assert (done.code, "lora is no model, and what reads such files" in done.err) == (2, True)


def test_a_factor_follows_units_that_alternate():
    lines = ['t: [x, "(a | b) | c"]', 'w: ["a + b + c", x]']
    declared = head(groups="{a: {size: 3}, b: {size: 2}}")
    spec = bound(lines, {"t": (2, 9), "w": (9, 2)}, **declared)
    (tensor,) = (t for t in spec.tensors if t.members == ("t",))
    moves = draw_moves(spec, 3)
    rows = torch.arange(9.0).expand(2, 9).contiguous()
    order = take(rows, tensor, moves)[0].long()
    factor = along_axes(tensor, [None, 1], (RANK, 9), members=("f",), groups=spec.groups)
    values = draw(5, RANK, 9)
    assert torch.equal(take(values, factor, moves), values[:, order])
    assert not torch.equal(order, torch.arange(9))
