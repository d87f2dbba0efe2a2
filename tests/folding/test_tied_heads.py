"""`--tie`: a head that is the embedding stays so when norms are folded, or is a tensor apart."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import USER, model_of, store
from tests.symmetry.small import LAYER_NORM, case, layer_norm, outputs

FOLD = ("fold", "a.safetensors", "--spec", "my.yaml")


def written(folder: Path, *seeds: int):
    """Write models with tied heads far from a multiple of the embedding; return the first case."""
    (folder / "my.yaml").write_text(LAYER_NORM)
    (folder / "user.py").write_text(USER)
    for name, seed in zip("abc", seeds, strict=False):
        store(folder / f"{name}.safetensors", case("layer norm", seed, tied=True).state)
    return case("layer norm", seeds[0], tied=True)


def untied(folder: Path, name: str) -> torch.Tensor:
    return outputs(layer_norm(), load_file(folder / f"{name}.safetensors"))


def record(path: Path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["rebasin"])


@pytest.mark.parametrize("tie", ["untie", "auto"])
def test_a_head_of_its_own_keeps_the_function(tie, tmp_path):
    found = written(tmp_path, 0)
    done = rebasin(*FOLD, "--tie", tie, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "its own now, 'head.weight': tie_word_embeddings must be false" in done.err
    before, after = outputs(found.net, found.state), untied(tmp_path, "a.folded")
    assert torch.allclose(before, after, rtol=0, atol=1e-12)
    assert record(tmp_path / "a.folded.safetensors")["untied"] == {"head.weight": "embed.weight"}
    again = rebasin("fold", "a.folded.safetensors", *FOLD[2:], "--tie", "untie", cwd=tmp_path)
    assert "the norms of a.folded.safetensors are folded already" in again.err


def test_what_is_near_stays_tied_unless_asked(tmp_path):
    found = written(tmp_path, 0)
    even = found.state | {"norm.weight": torch.full((12,), 1.5, dtype=torch.float64)}
    even["norm.weight"][0] = 1.4
    store(tmp_path / "a.safetensors", even)
    for tie, heads in (("auto", []), ("keep", []), ("untie", ["head.weight"])):
        done = rebasin(*FOLD, "--tie", tie, "--json", "-f", cwd=tmp_path)
        (event,) = (e for e in done.events if e["event"] == "result")
        assert event["untied"] == heads
        assert (event["tied"] is None) == bool(heads)
        assert ("head.weight" in load_file(tmp_path / "a.folded.safetensors")) == bool(heads)


def test_to_keep_a_head_that_is_far_off_is_refused_with_the_way_out(tmp_path):
    written(tmp_path, 0)
    done = rebasin(*FOLD, "--tie", "keep", cwd=tmp_path)
    assert done.code == 3
    assert "no multiple of the embedding is nearer to it" in done.err
    assert "--tie untie stores a head of its own" in done.err


def test_without_a_name_for_the_head_it_cannot_be_stored(tmp_path):
    written(tmp_path, 0)
    nameless = LAYER_NORM.replace("readers: [head.weight], tied", "tied")
    (tmp_path / "my.yaml").write_text(nameless)
    done = rebasin(*FOLD, "--tie", "untie", cwd=tmp_path)
    assert done.code == 2
    assert "nothing says what an output head apart from 'embed.weight' is called" in done.err


def test_a_class_that_computes_with_the_embedding_itself_is_named(tmp_path):
    written(tmp_path, 0)
    with (tmp_path / "user.py").open("a") as user:
        user.write("def tokens(): return next(batches())\n")
    model = ("--model", model_of("tied head"), "--input", "user.py:tokens")
    done = rebasin(*FOLD, *model, "--tie", "untie", cwd=tmp_path)
    assert done.code == 2
    assert (
        "has no tensor for 'head.weight': it computes its outputs from 'embed.weight'" in done.err
    )


def test_the_name_of_the_head_in_a_file_is_the_one_that_parts(tmp_path):
    """As torch.save writes a model that ties: one memory under several names, one a head."""
    found = written(tmp_path, 0)
    same = found.state["embed.weight"]
    torch.save({**found.state, "also.weight": same, "head.weight": same}, tmp_path / "a.pt")
    done = rebasin("fold", "a.pt", *FOLD[2:], "--tie", "untie", cwd=tmp_path)
    assert done.code == 0, done.err
    folded = torch.load(tmp_path / "a.folded.pt")
    assert folded.pop("also.weight").data_ptr() == folded["embed.weight"].data_ptr()
    before = outputs(found.net, found.state)
    assert torch.allclose(before, outputs(layer_norm(), folded), rtol=0, atol=1e-12)
    assert folded["head.weight"].data_ptr() != folded["embed.weight"].data_ptr()


def test_a_wrapped_file_has_the_head_inside_the_wrapper(tmp_path):
    found = written(tmp_path, 0)
    store(tmp_path / "a.safetensors", {f"module.{n}": t for n, t in found.state.items()})
    rebasin(*FOLD, "--tie", "untie", cwd=tmp_path)
    names = load_file(tmp_path / "a.folded.safetensors").keys()
    assert names == {f"module.{n}" for n in (*found.state, "head.weight")}


ORTHOGONAL = ("--spec", "my.yaml", "--symmetry", "orthogonal")


def test_what_is_aligned_has_heads_of_its_own_everywhere(tmp_path):
    written(tmp_path, 0, 1, 2)
    maps = ("--save-permutation", "b.maps.safetensors")
    done = rebasin("align", "a.safetensors", "b.safetensors", *ORTHOGONAL, *maps, cwd=tmp_path)
    assert done.code == 0, done.err
    before = outputs(layer_norm(tied=True), load_file(tmp_path / "b.safetensors"))
    assert torch.allclose(before, untied(tmp_path, "b.aligned"), rtol=0, atol=1e-11)
    rebasin("apply", "b.maps.safetensors", "b.safetensors", cwd=tmp_path)
    moved, aligned = (load_file(tmp_path / f"b.{n}.safetensors") for n in ("rotated", "aligned"))
    assert all(torch.equal(moved[n], aligned[n]) for n in aligned)
    # One that is folded already and one that is not yet: the record says that heads are apart.
    more = ("align", "a.folded.safetensors", "c.safetensors", *ORTHOGONAL)
    assert rebasin(*more, cwd=tmp_path).lines == ["a.folded.safetensors", "c.aligned.safetensors"]
    kept = rebasin(*more, "--tie", "keep", "-f", cwd=tmp_path)
    assert "a.folded.safetensors has a head of its own, and --tie keep ties those of" in kept.err
    names = ("a.folded", "b.aligned", "c.aligned")
    merged = rebasin("merge", *(f"{n}.safetensors" for n in names), *ORTHOGONAL[:2], cwd=tmp_path)
    assert "they lie in one basin already" in merged.err


def test_a_line_and_a_mean_are_of_models_with_heads(tmp_path):
    written(tmp_path, 0, 1)
    pair = ("a.safetensors", "b.safetensors")
    rebasin("lerp", *pair, *ORTHOGONAL, "--at", "1", "-o", "end.safetensors", cwd=tmp_path)
    before = outputs(layer_norm(tied=True), load_file(tmp_path / "b.safetensors"))
    assert torch.allclose(before, untied(tmp_path, "end"), rtol=0, atol=1e-11)
    rebasin("merge", *pair, *ORTHOGONAL, "-o", "m.safetensors", cwd=tmp_path)
    assert "head.weight" in load_file(tmp_path / "m.safetensors")
    assert record(tmp_path / "m.safetensors")["untied"] == {"head.weight": "embed.weight"}


def test_permutations_have_no_use_for_it(tmp_path):
    written(tmp_path, 0, 1)
    pair = ("a.safetensors", "b.safetensors", "--spec", "my.yaml", "--tie", "untie")
    for command in ("align", "merge"):
        done = rebasin(command, *pair, cwd=tmp_path)
        assert done.code == 2
        assert "--tie untie goes with --symmetry orthogonal alone" in done.err


def hugging_face(folder: Path, kind: str):
    """Write a small tied model of transformers, its gains far from equal, as a folder."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 40, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=16, n_head=2, n_layer=2, n_positions=32, **sizes)
        net = transformers.GPT2LMHeadModel(config)
    else:
        wide = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide, **heads, **sizes))
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    net.double().eval().save_pretrained(folder)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_folder_of_transformers_says_that_its_head_is_apart(kind, tmp_path):
    net = hugging_face(tmp_path / "a", kind)
    done = rebasin("fold", "a", "-o", "b/", "--tie", "untie", cwd=tmp_path)
    assert done.code == 0, done.err
    (folder,) = done.lines
    told = json.loads((tmp_path / folder / "config.json").read_text())
    assert told["tie_word_embeddings"] is False
    again = type(net).from_pretrained(tmp_path / folder, dtype=torch.float64)
    assert again.lm_head.weight is not again.get_input_embeddings().weight
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        apart = (net(tokens).logits - again(tokens).logits).abs().max()
    assert apart < (1e-12 if kind == "gpt2" else 1e-5)  # llama's rotary table is float32
    assert "outputs moved by" in done.err  # the class was run with its head apart


def encoder_decoder(folder: Path, kind: str, *, seed: int = 0):
    """Write a small tied model of transformers as a folder, as the files of the hub are."""
    transformers = pytest.importorskip("transformers")
    layers = {"encoder_layers": 1, "decoder_layers": 1, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16, "d_ff": 24}
    wide = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32}
    config = transformers.CONFIG_MAPPING[kind](vocab_size=40, **layers, **heads, **wide)
    name = {"pegasus": "Pegasus", "t5": "T5", "umt5": "UMT5"}[kind]
    torch.manual_seed(seed)
    net = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    net.double().eval().save_pretrained(folder)
    path = folder / "config.json"
    told = json.loads(path.read_text())
    told.pop("scale_decoder_outputs", None)
    path.write_text(json.dumps(told | {"tie_word_embeddings": True}))
    return net


def moved_by_loading(net, folder: Path) -> float:
    again, told = type(net).from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not any(told.values()), told
    tokens = {"input_ids": torch.arange(3, 20)[None], "decoder_input_ids": torch.arange(9)[None]}
    with torch.no_grad():
        return float((net(**tokens).logits - again(**tokens).logits).abs().max())


@pytest.mark.slow
def test_embeddings_that_a_class_ties_by_the_same_word_part_with_the_head(tmp_path):
    net = encoder_decoder(tmp_path / "a", "pegasus")
    done = rebasin("fold", "a", "-o", "a.folded/", "--tie", "untie", cwd=tmp_path)
    assert done.code == 0, done.err
    assert moved_by_loading(net, tmp_path / done.lines[0]) < 1e-5
    told = record(tmp_path / done.lines[0] / "model.safetensors")
    assert len(told["untied"]) == 1
    assert len(told["untied_along"]) == 2
    other = encoder_decoder(tmp_path / "b", "pegasus", seed=1)
    maps = ("--save-permutation", "b.maps.safetensors")
    done = rebasin("align", done.lines[0], "b", "--symmetry", "orthogonal", *maps, cwd=tmp_path)
    assert done.code == 0, done.err
    assert moved_by_loading(other, tmp_path / "b.aligned") < 1e-5
    done = rebasin("apply", "b.maps.safetensors", "b", cwd=tmp_path)
    assert done.code == 0, done.err
    assert moved_by_loading(other, tmp_path / "b.rotated") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "umt5"])
def test_a_class_that_takes_more_from_the_tie_is_refused(kind, tmp_path):
    """Transformers 4 scales by the word itself: no key of its own says so to all versions."""
    encoder_decoder(tmp_path / "a", kind)
    done = rebasin("fold", "a", "-o", "b/", "--tie", "untie", cwd=tmp_path)
    assert done.code == 2, done.err
    assert "says more than whether its head is the embedding" in done.err
    assert "scale_decoder_outputs" in done.err


SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")
def test_a_trained_model_keeps_its_function_to_rounding(tmp_path):
    """Its class computes with lm_head.weight, which it sets to be the embedding."""
    source = load_file(SHARED / "char_gpt_s0.safetensors")
    save_file({n: t.double() for n, t in source.items()}, tmp_path / "a.safetensors")
    (tmp_path / "shared_models.py").write_text((SHARED / "models.py").read_text())
    code = (
        "import torch\nfrom shared_models import CharGPT\n"
        f"def net(): return CharGPT({len(source['wte.weight'])})\n"
        "def tokens(): return torch.arange(64)[None] % 60\n"
    )
    (tmp_path / "user.py").write_text(code)
    model = ("--model", "user.py:net", "--input", "user.py:tokens", "--tie", "untie", "--json")
    spec = ("--spec", "preln-gpt", "--set", "heads=4")
    done = rebasin("fold", "a.safetensors", *spec, *model, cwd=tmp_path)
    assert done.code == 0, done.err
    (event,) = (e for e in done.events if e["event"] == "result")
    assert event["output_difference"] < 1e-12
