"""`--data sampled`: language models are run on what they write themselves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.network.language_model import SequencePlan
from rebasin_cli.network.sampled_text import draw_sequences
from tests.cli.harness import Done, rebasin
from tests.models.transformer import CharGpt, FlatVit

USER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.models.transformer import CharGpt, FlatVit
"""
AB = ("a.safetensors", "b.safetensors")
ORTHOGONAL = ("--spec", "preln-gpt", "--set", "heads=4", "--symmetry", "orthogonal")
MODEL, SAMPLED = ("--model", "net.py:CharGpt"), ("--data", "sampled")
LLAMA = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
    "initializer_range": 0.3,
}


def write(folder: Path, kind: type) -> None:
    """Write two networks whose units have nothing to do with one another.

    The last gain is 1, as it has to be nearly where the head is the embedding.
    """
    (folder / "net.py").write_text(USER)
    for seed, name in enumerate(AB):
        generator = torch.Generator().manual_seed(seed)
        state = kind().state_dict()
        state.pop("lm_head.weight", None)
        drawn = {n: 0.3 * torch.randn(t.shape, generator=generator) for n, t in state.items()}
        drawn |= {n: t + 1 for n, t in drawn.items() if n.endswith(("ln1.weight", "ln2.weight"))}
        drawn |= {n: torch.ones_like(t) for n, t in drawn.items() if n == "ln_f.weight"}
        save_file(drawn, folder / name)


@pytest.fixture
def gpts(tmp_path):
    write(tmp_path, CharGpt)
    return tmp_path


def run(folder: Path, *argv: str) -> Done:
    return rebasin(*argv, cwd=folder, env={"XDG_CACHE_HOME": str(folder / "cache")})


def result(done: Done) -> dict:
    assert done.code == 0, done.err
    return [event for event in done.events if event["event"] == "result"][-1]


def digests(done: Done) -> list[str | None]:
    return [event.get("sha256") for event in done.events]


LEARN = ("align", *AB, *ORTHOGONAL, *MODEL, *SAMPLED, "--learn", "4", "--samples", "10")


@pytest.mark.slow
def test_maps_are_learned_from_what_the_models_write(gpts):
    learned = result(run(gpts, *LEARN, "--json"))["learned"]
    assert learned["losses"][str(learned["step"])] < learned["losses"]["0"]


@pytest.mark.slow
def test_what_the_models_write_judges_alignments(gpts):
    select = ("--select", "3", "--samples", "10", "--json")
    done = run(gpts, "align", *AB, *ORTHOGONAL, *MODEL, *SAMPLED, *select)
    assert result(done)["cosine"]["after"] > 0
    choice = done.events[0]
    assert (choice["loss_against"], choice["batches"]) == ("answers", 2)
    assert [one["name"] for one in choice["candidates"]] == ["default", "activations"]


@pytest.mark.slow
def test_the_same_seed_learns_the_same_from_what_is_drawn(gpts):
    done = run(gpts, *LEARN, "--json")
    assert result(done)
    assert digests(run(gpts, *LEARN, "--json", "-f")) == digests(done)
    assert digests(run(gpts, *LEARN, "--json", "-f", "--seed", "1")) != digests(done)


@pytest.mark.slow
def test_streams_are_compared_on_what_the_models_write(gpts):
    way = ("--method", "activations", "--samples", "40")
    done = run(gpts, "align", *AB, *ORTHOGONAL, *MODEL, *SAMPLED, *way, "--json")
    assert result(done)["cosine"]["after"] > result(done)["cosine"]["before"] + 0.1


FEW = (*MODEL, *SAMPLED, "--samples", "40")


@pytest.mark.slow
def test_merged_models_are_compared_on_what_all_of_them_write(gpts):
    way = ("--method", "activations", "--strategy", "universe", *FEW)
    done = run(gpts, "merge", *AB, *ORTHOGONAL, *way, "--json")
    assert result(done)["strategy"] == "universe"
    aligned = next(event for event in done.events if "cosine" in event)["cosine"]
    assert aligned["after"] > aligned["before"] + 0.1


def test_permutations_are_found_on_what_the_models_write(gpts):
    done = run(gpts, "align", *AB, *FEW, "--method", "activations", "--json")
    assert result(done)["status"] == "moved"


@pytest.mark.slow
def test_statistics_are_of_what_the_models_write(gpts):
    done = run(gpts, "statistics", *AB, *FEW, "--json")
    assert result(done)["samples"] == 40 * 9  # tokens


@pytest.mark.slow
def test_statistics_of_what_models_write_say_what_running_them_does(gpts):
    assert run(gpts, "statistics", *AB, *FEW).code == 0
    file = ("--statistics", "a.statistics.safetensors", "-o", "stored.safetensors")
    way = ("--method", "activations")
    assert run(gpts, "align", *AB, *way, *file).code == 0
    assert run(gpts, "align", *AB, *way, *FEW).code == 0
    stored, direct = (load_file(gpts / f"{n}.safetensors") for n in ("stored", "b.aligned"))
    assert all(torch.equal(direct[name], stored[name]) for name in direct)


@pytest.mark.parametrize(
    ("options", "sequences", "tokens"),
    [((), 32768 // 9, 9), (("--input-shape", "1,5", "--samples", "77"), 77, 5)],
)
def test_a_plan_says_how_much_is_drawn(options, sequences, tokens, gpts):
    learn = ("align", *AB, *ORTHOGONAL, *MODEL, *SAMPLED, "--learn", "20", *options)
    plan = json.loads(run(gpts, *learn, "--dry-run").out)
    assert plan["data"] == "sampled"
    assert plan["sampled"] == {"sequences": sequences, "tokens": tokens}


def test_a_model_that_writes_nothing_is_refused_before_any_work(tmp_path):
    write(tmp_path, FlatVit)
    spec = ("--spec", "preln-vit", "--set", "heads=4", "--symmetry", "orthogonal")
    learn = ("--learn", "20", "--model", "net.py:FlatVit", *SAMPLED)
    done = run(tmp_path, "align", *AB, *spec, *learn)
    assert done.code == 2, done.err
    assert "only language models can be sampled from, and net.py:FlatVit is none" in done.err
    assert "--data file.py:batches yields what this model is run on" in done.err
    assert not (tmp_path / "a.folded.safetensors").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("align", *AB, *ORTHOGONAL, "--learn", "5", *SAMPLED), "a model has to be run"),
        (("align", *AB, *ORTHOGONAL, *MODEL, *SAMPLED), "matching by weights uses no data"),
        (("align", *AB, *MODEL, "--samples", "9"), "how much is drawn with --data sampled"),
        (("align", *AB, *MODEL, *SAMPLED, "--method", "straight-through"), "sampled text has none"),
        (("merge", *AB, *ORTHOGONAL, *MODEL, *SAMPLED), "matching by weights uses no data"),
        (("merge", *AB, *MODEL, *SAMPLED), "--data sampled is for --symmetry orthogonal"),
        (("barrier", *AB, *MODEL, *SAMPLED), "--data sampled is of align and merge"),
        (("renormalize", "a.safetensors", *MODEL, *SAMPLED), "--data sampled is of align"),
    ],
)
def test_what_does_not_go_together_is_refused(argv, message, gpts):
    done = run(gpts, *argv)
    assert done.code == 2, done.err
    assert message in " ".join(done.err.replace("│", " ").split())


@pytest.fixture
def llamas(tmp_path, monkeypatch):
    """Two folders as transformers writes them."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
        model.save_pretrained(tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_two_folders_of_transformers_need_no_other_option(llamas):
    from transformers import AutoModelForCausalLM

    few = ("--symmetry", "orthogonal", "--learn", "10", *SAMPLED, "--samples", "40")
    done = run(llamas, "align", "a", "b", *few)
    assert done.code == 0, done.err
    assert done.lines == ["a.folded", "b.aligned"]
    tokens = torch.arange(20)[None] % 13
    for old, new in (("a", "a.folded"), ("b", "b.aligned")):
        nets = (AutoModelForCausalLM.from_pretrained(llamas / name) for name in (old, new))
        before, after = (net(tokens).logits for net in nets)
        assert torch.allclose(before, after, rtol=0, atol=1e-4)


def test_transformers_draw_as_often_as_the_model_says_and_past_an_end():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    fields = {"bos_token_id": 1, "eos_token_id": 0, "temperature": 0.1, "do_sample": False}
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    net.generation_config.update(**fields, repetition_penalty=5.0)
    count = 4000
    rows = draw_sequences(
        net, count, SequencePlan(count, 3, 0), torch.Generator().manual_seed(0), told=print
    )
    assert rows[:, 0].tolist() == [0] * count  # which would be the end, or be passed over
    likely = net(torch.tensor([[0]])).logits[0, -1].softmax(-1)
    assert torch.allclose(rows[:, 1].bincount(minlength=13) / count, likely, atol=0.02)
    assert rows[rows[:, 1] == 0, 2].any()
    common = int(likely.argmax())
    second = rows[rows[:, 1] == common, 2]
    likely = net(torch.tensor([[0, common]])).logits[0, -1].softmax(-1)
    assert torch.allclose(second.bincount(minlength=13) / len(second), likely, atol=0.05)
