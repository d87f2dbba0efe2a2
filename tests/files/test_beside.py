"""What stands beside the weights of a folder: its configuration, the index, the model card."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.build import load, mlp, near, pair, save, sharded, shuffled
from tests.cli.harness import image, rebasin

CONFIG = {"architectures": ["Net"], "dtype": "float32"}
NOTES = {"total_size": 1, "total_parameters": 341, "by": {"own": [1, "é"]}}


def folders(place, config=CONFIG, notes=NOTES):
    """Write folders a and b of two shards each: b is near to a, in another order."""
    for name, state in (("a", mlp(1)), ("b", near(shuffled(mlp(1)), 2))):
        (place / name).mkdir()
        folder = sharded(place / name, state, config)
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps({**index, "metadata": notes}))
        (folder / "README.md").write_text(f"the card of {name}")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


# dtype in config.json

COMMANDS = {
    "merge": ["merge", "a", "b", "-o", "out"],
    "align": ["align", "a", "b", "-o", "out"],
    "lerp": ["lerp", "a", "b", "--at", "0.5", "-o", "out"],
    "prune": ["prune", "a", "--sparsity", "0.5", "-o", "out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_configuration_of_a_result_says_its_dtype(tmp_path, command):
    folders(tmp_path)
    done = rebasin(*COMMANDS[command], "--dtype", "bfloat16", cwd=tmp_path)
    assert done.code == 0, done.err
    assert config_of(tmp_path / "out") == {**CONFIG, "dtype": "bfloat16"}
    shard = load_file(tmp_path / "out/model-00001-of-00002.safetensors")
    assert {tensor.dtype for tensor in shard.values()} == {torch.bfloat16}
    assert config_of(tmp_path / "a") == CONFIG


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"architectures": ["N"]}, {"architectures": ["N"], "dtype": "float16"}),
        (
            {"model_type": "n", "torch_dtype": "float32"},
            {"model_type": "n", "torch_dtype": "float16", "dtype": "float16"},
        ),
        ({"torch_dtype": None}, {"torch_dtype": None, "dtype": "float16"}),
        (
            {"text_config": {"dtype": "float32", "eps": 1e-5}, "vision_config": {"size": 3}},
            {"text_config": {"dtype": "float16", "eps": 1e-5}, "vision_config": {"size": 3}},
        ),
        ({"a": {"b": {"torch_dtype": "float32"}}}, {"a": {"b": {"torch_dtype": "float16"}}}),
        ({"_class_name": "UNet"}, {"_class_name": "UNet"}),
        ({"architecture": "resnet18"}, {"architecture": "resnet18"}),
        (
            {"dtype": "float32", "quantization_config": {"dtype": "int8"}},
            {"dtype": "float16", "quantization_config": {"dtype": "int8"}},
        ),
    ],
)  # fmt: skip
def test_every_dtype_of_weights_in_it_is_written_and_nothing_else(tmp_path, before, after):
    folders(tmp_path, before)
    done = rebasin("lerp", "a", "b", "--at", "0", "--dtype", "float16", "-o", "o", cwd=tmp_path)
    assert done.code == 0, done.err
    assert config_of(tmp_path / "o") == after


@pytest.mark.parametrize("text", ["{", "[]", '{"dtype": "float32", "dtype": "x"}', "\xff"])
def test_a_configuration_that_cannot_be_read_is_copied(tmp_path, text):
    folders(tmp_path)
    (tmp_path / "a/config.json").write_bytes(text.encode("latin-1"))
    done = rebasin(
        "prune", "a", "--sparsity", "0.1", "--dtype", "float16", "-o", "out", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out/config.json").read_bytes() == text.encode("latin-1")


def test_without_a_new_dtype_the_configuration_is_copied_as_it_is(tmp_path):
    folders(tmp_path)
    (tmp_path / "a/config.json").write_text('{"dtype":   "float32"}')
    assert rebasin("merge", "a", "b", "-o", "out", cwd=tmp_path).code == 0
    assert (tmp_path / "out/config.json").read_text() == '{"dtype":   "float32"}'


def test_in_place_the_configuration_follows_too(tmp_path):
    folders(tmp_path)
    done = rebasin("align", "a", "b", "--in-place", "--dtype", "float16", cwd=tmp_path)
    assert done.code == 0, done.err
    assert config_of(tmp_path / "b")["dtype"] == "float16"
    assert (tmp_path / "b/tokenizer.json").exists()


# what an index says of the whole


@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_what_an_index_says_besides_is_kept_and_the_size_counted_anew(tmp_path, dtype):
    folders(tmp_path)
    assert rebasin("merge", "a", "b", "--dtype", dtype, "-o", "out", cwd=tmp_path).code == 0
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    numbers = sum(tensor.numel() for tensor in mlp(1).values())
    assert index["metadata"] == {**NOTES, "total_size": numbers * (4 if dtype == "keep" else 2)}


@pytest.mark.parametrize(
    "notes",
    [
        "text",
        pytest.param(None, marks=pytest.mark.slow),
        pytest.param([], marks=pytest.mark.slow),
    ],
)
def test_an_index_that_says_nothing_gets_its_size(tmp_path, notes):
    folders(tmp_path, notes=notes)
    assert rebasin("merge", "a", "b", "-o", "out", cwd=tmp_path).code == 0
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert list(index["metadata"]) == ["total_size"]


# nothing moves

FIXED = "rebasin: 1\nname: fixed\ngroups: {h: {fixed: true}}\ntensors: {w: [h, ~], b: [h]}\n"


@pytest.mark.parametrize(
    "strategy",
    ["many", *(pytest.param(n, marks=pytest.mark.slow) for n in ("star", "sync", "universe"))],
)
@pytest.mark.parametrize("how", ["fixed", "only", "same"])
def test_where_no_group_moves_merge_says_why(tmp_path, strategy, how):
    pair(tmp_path)
    models = ["a.safetensors", "a.safetensors" if how == "same" else "b.safetensors"]
    options = ["--only", "6.bias"] if how == "only" else []
    if how == "fixed":
        (tmp_path / "s.yaml").write_text(FIXED)
        for name in models:
            save(tmp_path / name, {"w": torch.randn(4, 3), "b": torch.randn(4)})
        options = ["--spec", "s.yaml"]
    options += ["--strategy", strategy, "-o", "m.safetensors"]
    done = rebasin("merge", *models, *options, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    result = done.events[0]
    why = (
        "no better order of units was found"
        if how == "same"
        else "nothing could be aligned, no group may move"
    )
    said = f"{why}: averaged as they are"
    assert (result["aligned"], result["reason"]) == (False, said)
    assert f"2 models merged: {said}" in done.err


def test_where_units_move_merge_says_how(tmp_path):
    pair(tmp_path)
    done = rebasin("merge", "a.safetensors", "b.safetensors", "--json", cwd=tmp_path)
    assert done.events[0]["aligned"] is True
    assert "nothing could be aligned" not in done.err


def test_align_says_so_too(tmp_path):
    (tmp_path / "s.yaml").write_text(FIXED)
    for name in ("a", "b"):
        save(tmp_path / f"{name}.pt", {"w": torch.randn(4, 3), "b": torch.randn(4)})
    done = rebasin("align", "a.pt", "b.pt", "--spec", "s.yaml", "--json", cwd=tmp_path)
    assert "nothing could be aligned: no group may move" in done.err
    assert done.events[-2]["status"] == "nothing"


# the model card


def front(text):
    """Return the lines of the YAML in front of a card, and the rest."""
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    return head.splitlines(), body


def test_a_card_tells_the_hub_of_its_models_and_people_of_the_recipe(tmp_path):
    folders(tmp_path)
    words = ["merge", "a", "b", "-w", "1,3", "--spec", "mlp", "--card", "-o", "out"]
    done = rebasin(*words, cwd=tmp_path)
    assert done.code == 0, done.err
    head, body = front((tmp_path / "out/README.md").read_text())
    assert head == [
        "base_model:",
        '- "a"',
        '- "b"',
        "base_model_relation: merge",
        "library_name: transformers",
        "tags:",
        "- rebasin",
        "- merge",
    ]
    assert f"    rebasin {' '.join(words)}\n" in body
    for name, weight in (("a", "1.0"), ("b", "3.0")):
        shards = sorted((tmp_path / name).glob("*.safetensors"))
        lines = [f"{p.name}\0{hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in shards]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        assert f"| `{name}` | `{digest}` | {weight} |\n" in body
    for line in ("* spec: mlp", "* strategy: many", "* seed: 0", "* dtype: that of the input"):
        assert f"{line}\n" in body
    assert "* inner products: " in body
    assert "* function of what was aligned: not looked at by running the model\n" in body
    assert f"model card: {'out/README.md'}" in done.err
    assert (tmp_path / "a/README.md").read_text() == "the card of a"


def test_without_a_card_the_first_model_s_is_copied(tmp_path):
    folders(tmp_path)
    assert rebasin("merge", "a", "b", "-o", "out", cwd=tmp_path).code == 0
    assert (tmp_path / "out/README.md").read_text() == "the card of a"


@pytest.mark.parametrize("command", [["merge"], ["align"], ["lerp", "--at", "0.5"]])
def test_the_card_of_a_file_lies_beside_it(tmp_path, command):
    pair(tmp_path, ".pt")
    done = rebasin(*command, "a.pt", "b.pt", "--card", "-o", "o.pt", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    cards = [event["card"] for event in done.events if "card" in event]
    assert cards == ["o.card.md"]
    assert "base_model:" in (tmp_path / "o.card.md").read_text()
    refused = rebasin(*command, "a.pt", "b.pt", "--card", "-o", "o.pt", "-f", cwd=tmp_path)
    assert refused.code == 0, refused.err


@pytest.mark.parametrize(
    ("words", "card"),
    [
        (["lerp", "a.pt", "b.pt", "--at", "0.5"], "lerp/alpha-0.500000.card.md"),
        (["align", "a.pt", "b.pt", "a.safetensors", "-o", "new"], "new/b.aligned.card.md"),
        (
            ["transport", "a.pt", "--from=a.pt", "--to=b.pt", "-o", "new/"],
            "new/a.transported.card.md",
        ),
    ],
)
def test_a_card_lies_in_a_folder_that_is_made(tmp_path, words, card):
    pair(tmp_path, ".pt")
    pair(tmp_path, ".safetensors")
    done = rebasin(*words, "--card", cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / card).is_file()


def test_models_of_the_hub_s_cache_are_called_by_their_names(tmp_path):
    snapshots = tmp_path / "models--org--big-model/snapshots/abc"
    snapshots.parent.mkdir(parents=True)
    folders(tmp_path)
    (tmp_path / "a").rename(snapshots)
    done = rebasin("align", "b", snapshots, "--card", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert front((tmp_path / "out/README.md").read_text())[0][:2] == [
        "base_model:",
        '- "org/big-model"',
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["align", "a", "b", "--in-place"], "--card would replace b/README.md"),
        (["lerp", "a", "b", "--steps", "3"], "--card is for one result that stays"),
        (["lerp", "a", "b", "--at", "1", "--exec", "true"], "--card is for one result that stays"),
        (["merge", "a", "b", "-o", "c.safetensors"], "c.card.md exists"),
    ],
)  # fmt: skip
def test_a_card_never_replaces_another_unasked(tmp_path, command, message):
    folders(tmp_path)
    (tmp_path / "c.card.md").write_text("mine")
    if "c.safetensors" in command:
        for name in "ab":
            save(tmp_path / f"{name}.pt", mlp(1))
        command = ["merge", "a.pt", "b.pt", "-o", "c.safetensors"]
    before = image(tmp_path)
    done = rebasin(*command, "--card", cwd=tmp_path)
    assert done.code == 2
    assert message in done.err
    assert image(tmp_path) == before


def test_a_card_replaces_another_when_asked(tmp_path):
    folders(tmp_path)
    done = rebasin("align", "a", "b", "--in-place", "--card", "--force", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "with its units reordered" in (tmp_path / "b/README.md").read_text()


def test_names_that_are_no_text_do_no_harm(tmp_path):
    pair(tmp_path)
    (tmp_path / "a.safetensors").rename(tmp_path / "\udcff|`.safetensors")
    done = rebasin(
        "merge", "\udcff|`.safetensors", "b.safetensors", "--card", "-o", "o.pt", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert (tmp_path / "o.card.md").read_text().count("\n") > 10


def test_aligned_weights_are_the_same_with_a_card(tmp_path):
    pair(tmp_path)
    for name, more in (("x", []), ("y", ["--card"])):
        rebasin("align", "a.safetensors", "b.safetensors", *more, "-o", f"{name}.pt", cwd=tmp_path)
    one, other = (load(tmp_path / f"{name}.pt") for name in "xy")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_transformers_loads_a_folder_in_its_new_dtype(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    for seed in (0, 1):
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / str(seed))
    done = rebasin("merge", "0", "1", "--dtype", "bfloat16", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
