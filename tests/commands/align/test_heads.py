"""A backbone against a model with a head: aligned as far as no output of either moves."""

import pytest
import torch

from tests.cli.build import save
from tests.cli.harness import rebasin

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}
GPT = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
KINDS = {
    "bert": lambda t: t.BertModel(t.BertConfig(**SMALL)),
    "bert-mlm": lambda t: t.BertForMaskedLM(t.BertConfig(**SMALL)),
    "bert-class": lambda t: t.BertForSequenceClassification(t.BertConfig(**SMALL)),
    "gpt": lambda t: t.GPT2Model(t.GPT2Config(**GPT)),
    "gpt-lm": lambda t: t.GPT2LMHeadModel(t.GPT2Config(**GPT)),
    "gpt-class": lambda t: t.GPT2ForSequenceClassification(t.GPT2Config(**GPT, pad_token_id=0)),
    "llama": lambda t: t.LlamaModel(t.LlamaConfig(**LLAMA)),
    "llama-lm": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA)),
}
PAIRS = [
    ("bert-class", "bert"),
    ("bert", "bert-mlm"),
    ("gpt-lm", "gpt"),
    ("gpt", "gpt-lm"),
    ("gpt-class", "gpt-lm"),
    ("llama-lm", "llama"),
    ("llama", "llama-lm"),
]
INPUT = torch.arange(22).reshape(2, 11)


def made(folder, kind, seed):
    torch.manual_seed(seed)
    model = KINDS[kind](transformers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder / kind)
    return model


def outputs(model):
    with torch.no_grad():
        return [x for x in model(INPUT).to_tuple() if isinstance(x, torch.Tensor)]


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "other"), PAIRS)
def test_no_output_of_a_backbone_or_a_head_moves(tmp_path, reference, other):
    made(tmp_path, reference, 0)
    model = made(tmp_path, other, 1)
    done = rebasin("align", reference, other, "-o", "out", "--no-check", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "0 of" not in done.err
    moved = type(model).from_pretrained(tmp_path / "out").eval()
    for before, after in zip(outputs(model), outputs(moved), strict=True):
        assert (before - after).abs().max() < 1e-4


def test_a_head_is_told_and_a_missing_layer_is_refused(tmp_path):
    spec = (
        "rebasin: 1\nname: s\ntensors:\n  body.{i}.up: [h.{i}, ~]\n"
        "  body.{i}.down: [~, h.{i}]\n  score.weight?: [~, ~]\n"
    )
    (tmp_path / "s.yaml").write_text(spec)

    def state(layers):
        pairs = [(f"body.{k}.up", (5, 3)) for k in range(layers)]
        pairs += [(f"body.{k}.down", (3, 5)) for k in range(layers)]
        return {name: torch.randn(shape) for name, shape in pairs}

    save(tmp_path / "a.pt", state(2))
    save(tmp_path / "b.pt", {**state(2), "score.weight": torch.randn(4, 3)})
    save(tmp_path / "c.pt", state(3))
    done = rebasin("align", "a.pt", "b.pt", "--spec", "s.yaml", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "warning: score.* not in both a.pt and b.pt" in done.err
    assert "score.weight" in torch.load(tmp_path / "b.aligned.pt")
    assert rebasin("align", "a.pt", "c.pt", "--spec", "s.yaml", cwd=tmp_path).code == 3
    assert rebasin("merge", "a.pt", "b.pt", "--spec", "s.yaml", cwd=tmp_path).code == 3


def test_what_a_backbone_returns_stays_though_the_head_reads_something_else(tmp_path):
    spec = (
        "rebasin: 1\nname: s\ntensors:\n  embed: [~, stream]\n  body.{i}.up: [h.{i}, stream]\n"
        "  body.{i}.down: [stream, h.{i}]\n  pool: [pool, stream]\n  score.weight?: [~, pool]\n"
        "transposed: [embed]\n"
    )
    (tmp_path / "s.yaml").write_text(spec)
    shapes = {"embed": (9, 6), "pool": (7, 6), "score.weight": (3, 7)}
    shapes |= {f"body.{k}.{n}": s for k in (0, 1) for n, s in (("up", (5, 6)), ("down", (6, 5)))}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    other = {n: torch.randn(shape) for n, shape in shapes.items() if n != "score.weight"}
    save(tmp_path / "a.pt", state)
    save(tmp_path / "b.pt", other)
    done = rebasin("align", "a.pt", "b.pt", "--spec", "s.yaml", cwd=tmp_path)
    assert done.code == 0, done.err
    found = torch.load(tmp_path / "b.aligned.pt")
    assert torch.equal(found["embed"], other["embed"])
    assert torch.equal(found["pool"], other["pool"])
    assert torch.equal(found["body.0.down"].sort().values, other["body.0.down"].sort().values)
