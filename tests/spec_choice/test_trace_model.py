"""`--model` in the commands about checkpoints: what it finds, says and refuses."""

import json

import pytest
import torch

from tests.cli.build import load, pair, same, save
from tests.cli.harness import Done, rebasin
from tests.cli.models import planted, write_net

AB = ("a.safetensors", "b.safetensors")
MODEL = ("--model", "net.py:Net")


@pytest.fixture
def folder(tmp_path):
    write_net(tmp_path)
    return tmp_path


def run(folder, *argv) -> Done:
    return rebasin(*argv, cwd=folder, env={"XDG_CACHE_HOME": str(folder / "cache")})


def test_a_planted_permutation_is_found_exactly(folder):
    planted(folder)
    done = run(folder, "align", *AB, *MODEL)
    assert done.lines == ["a.safetensors", "b.aligned.safetensors"]
    assert same(load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors"))
    assert "spec traced from net.py:Net" in done.err


def test_a_model_gives_what_its_printed_spec_gives(folder):
    planted(folder)
    save(folder / "b.safetensors", {n: t * 1.1 for n, t in load(folder / "b.safetensors").items()})
    (folder / "net.yaml").write_text(run(folder, "spec", "trace", "net.py:Net").out)
    one = run(folder, "align", *AB, *MODEL, "-o", "one.safetensors", "--json").events
    other = run(folder, "align", *AB, "--spec", "net.yaml", "-o", "other.safetensors", "--json")
    assert one[1]["objective"] == other.events[1]["objective"]
    assert [g["name"] for g in one[1]["groups"]] == ["net.0", "net.1"]
    assert same(load(folder / "one.safetensors"), load(folder / "other.safetensors"))


def test_the_file_remembers_the_model(folder):
    planted(folder)
    run(folder, "align", *AB, *MODEL)
    done = run(folder, "inspect", "b.aligned.safetensors", "--json")
    record = json.loads(done.events[0]["metadata"]["rebasin"])
    assert record["spec"] == "traced from net.py:Net"


def test_merge_and_lerp_take_a_model(folder):
    planted(folder)
    merged = run(folder, "merge", *AB, *MODEL, "-o", "merged.safetensors")
    assert "spec traced from net.py:Net" in merged.err
    between = run(folder, "lerp", *AB, *MODEL, "--align", "--at", "0.5", "-o", "mid.safetensors")
    assert between.code == 0
    original = load(folder / "a.safetensors")
    for name in ("merged", "mid"):
        found = load(folder / f"{name}.safetensors")
        assert all(torch.allclose(found[n], original[n]) for n in original)


def test_the_permutation_found_through_a_model_is_saved_and_applied(folder):
    planted(folder)
    run(folder, "align", *AB, *MODEL, "--save-permutation", "p.safetensors")
    done = run(folder, "apply", "p.safetensors", "b.safetensors", *MODEL, "-o", "c.safetensors")
    assert done.code == 0
    assert "the same function: outputs differ by" in done.err
    assert same(load(folder / "a.safetensors"), load(folder / "c.safetensors"))


def test_a_permutation_that_changes_the_function_is_not_applied(folder):
    planted(folder)
    wrong = "rebasin: 1\ntensors:\n  net.0.{weight,bias}: [w]\n  net.1.weight: [v, u]\n"
    wrong += "  net.1.bias: [~]\n  net.2.{weight,bias}: [~]\n"
    wrong += "groups:\n  w: {one-sided: true}\n  u: {one-sided: true}\n  v: {one-sided: true}\n"
    (folder / "wrong.yaml").write_text(wrong)
    save_ = ("--save-permutation", "p.safetensors")
    assert run(folder, "align", *AB, "--spec", "wrong.yaml", *save_).code == 0
    done = run(folder, "apply", "p.safetensors", "a.safetensors", *MODEL, "-o", "c.safetensors")
    assert done.code == 3
    assert "in this order of its units net.py:Net computes something else" in done.err
    assert "of their scale" in done.err
    assert not (folder / "c.safetensors").exists()


def test_verify_runs_both_models(folder):
    planted(folder)
    done = run(folder, "verify", *AB, *MODEL)
    assert done.code == 0
    assert "b.safetensors is a.safetensors with its units reordered" in done.out
    assert "the same function: outputs differ by" in done.err
    event = run(folder, "verify", *AB, *MODEL, "--json").events[0]
    assert (event["permutation"], event["same_function"]) == (True, True)
    assert event["output_difference"] < 1e-12


def test_verify_says_no_to_another_function(folder):
    planted(folder)
    state = load(folder / "b.safetensors")
    state["net.2.bias"][0] += 1.0
    save(folder / "b.safetensors", state)
    done = run(folder, "verify", *AB, *MODEL, "--json")
    assert done.code == 1
    event = done.events[0]
    assert (event["permutation"], event["same_function"]) == (False, False)
    assert event["output_difference"] > 0.01


def test_verify_says_yes_to_the_same_function_in_other_weights(folder):
    planted(folder)
    state = load(folder / "b.safetensors")
    for name, factor in (("net.0.weight", 2), ("net.0.bias", 2), ("net.1.weight", 0.5)):
        state[name] = state[name] * factor
    save(folder / "b.safetensors", state)
    done = run(folder, "verify", *AB, *MODEL)
    assert done.code == 0
    assert "computes what a.safetensors does, but is not a permutation of it" in done.out


def test_without_a_model_verify_runs_nothing(folder):
    pair(folder)
    event = run(folder, "verify", *AB, "--json").events[0]
    assert (event["same_function"], event["output_difference"]) == (None, None)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [("", "without the prefix 'net.'"), ("model.net.", "with the prefix 'model.'")],
)
def test_a_prefix_is_mapped_and_said(folder, prefix, said):
    planted(folder, prefix)
    done = run(folder, "align", *AB, *MODEL)
    assert f"traced from net.py:Net {said}" in done.err
    assert same(load(folder / "a.safetensors"), load(folder / "b.aligned.safetensors"))
    assert run(folder, "verify", *AB, *MODEL).code == 0


def test_a_backbone_without_its_head_keeps_the_order_of_what_the_head_reads(folder):
    planted(folder)
    done = run(folder, "align", *AB, "--model", "net.py:Headed", "--json", "-o", "c.safetensors")
    assert done.code == 0
    groups = {group["name"]: group for group in done.events[1]["groups"] if not group["fixed"]}
    assert [group["size"] for group in groups.values()] == [16, 12]
    assert same(load(folder / "a.safetensors"), load(folder / "c.safetensors"))


def test_other_heads_of_a_backbone_pass_through(folder):
    planted(folder)
    for name in AB:
        save(folder / name, {**load(folder / name), "pooler.weight": torch.ones(3, 4)})
    done = run(folder, "align", *AB, "--model", "net.py:Headed")
    assert done.code == 0
    assert "1 tensor not named by the spec: unchanged (" in done.err
    assert run(folder, "align", *AB, *MODEL, "-f").code == 3


def test_another_size_is_refused_with_the_shapes(folder):
    planted(folder)
    done = run(folder, "align", *AB, *MODEL, "--model-args", '{"hidden": 8}')
    assert done.code == 3
    assert "a.safetensors: its tensors are not those of net.py:Net" in done.err
    assert "shape: net.0.weight is [16, 6], expected [8, 6]" in done.err
    assert "--model-args" in done.err


def test_missing_and_unknown_tensors_are_listed_with_a_suggestion(folder):
    planted(folder)
    for name in AB:
        state = load(folder / name)
        state["net.2.wieght"] = state.pop("net.2.weight")
        save(folder / name, state)
    done = run(folder, "align", *AB, *MODEL)
    assert done.code == 3
    assert "missing: net.2.weight" in done.err
    assert "not in the model: net.2.wieght" in done.err
    assert "did you mean 'net.2.wieght'?" in done.err


def test_a_tensor_that_the_model_lacks_can_be_skipped(folder):
    planted(folder)
    for name in AB:
        save(folder / name, {**load(folder / name), "extra": torch.ones(3, 3)})
    refused = run(folder, "align", *AB, *MODEL)
    assert refused.code == 3
    assert "not in the model: extra" in refused.err
    assert run(folder, "align", *AB, *MODEL, "--skip", "extra").code == 0


def test_counters_that_the_model_lacks_do_not_matter(folder):
    planted(folder)
    for name in AB:
        save(folder / name, {**load(folder / name), "steps": torch.tensor([3, 4])})
    assert run(folder, "align", *AB, *MODEL).code == 0


@pytest.fixture
def unproved(folder):
    """A model whose output depends on how often it ran: no proof can hold."""
    (folder / "shaky.py").write_text(
        "import torch\nfrom net import Net\n\n\nclass Shaky(Net):\n    runs = 0\n\n"
        "    def forward(self, x):\n        Shaky.runs += 1\n"
        "        return super().forward(x) * Shaky.runs\n"
    )
    planted(folder)
    return folder


def test_a_trace_that_was_not_validated_is_refused(unproved):
    done = run(unproved, "align", *AB, "--model", "shaky.py:Shaky")
    assert done.code == 3
    assert "the trace of shaky.py:Shaky was not validated" in done.err
    assert "moves its outputs by" in done.err
    assert "hint: a model has to return the same for the same parameters" in done.err
    assert "--trust uses it all the same" in done.err


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("y * float('nan')", "its outputs are NaN with random parameters"),
        ("y * 0", "its outputs are empty or all one number"),
        ("y * 0 + x[:, :4]", "its outputs stay when the parameters that would be permuted"),
    ],
)
def test_a_refusal_says_why_nothing_could_be_proved(folder, returned, said):
    (folder / "lost.py").write_text(
        "from net import Net\n\n\nclass Lost(Net):\n    def forward(self, x):\n"
        f"        y = super().forward(x)\n        return {returned}\n"
    )
    planted(folder)
    for _ in ("traced", "from the cache"):
        done = run(folder, "align", *AB, "--model", "lost.py:Lost")
        assert (done.code, said in done.err) == (3, True), done.err
        assert "hint: give it other inputs: --input file.py:function" in done.err
    printed = run(folder, "spec", "trace", "lost.py:Lost", "--json")
    assert said in printed.events[0]["doubt"]
    assert f"NOT VALIDATED: {said[:20]}" in printed.events[0]["spec"]
    assert f"not validated: {said}" in printed.err


def test_a_trace_that_was_not_validated_can_be_trusted(unproved):
    assert run(unproved, "align", *AB, "--model", "shaky.py:Shaky", "--trust").code == 0


def test_a_printed_spec_says_that_it_was_not_validated(unproved):
    done = run(unproved, "spec", "trace", "shaky.py:Shaky", "--json")
    assert done.code == 0
    assert done.events[0]["validated"] is False
    assert "NOT VALIDATED" in done.events[0]["spec"]
    assert "NOT VALIDATED" in done.err


def test_a_spec_and_a_model_exclude_each_other(folder):
    planted(folder)
    done = run(folder, "align", *AB, *MODEL, "--spec", "mlp")
    assert done.code == 2
    assert "--spec and --model exclude each other" in done.err


@pytest.mark.parametrize(
    "argv", [("--model-args", "{}x"), ("--input-shape", "1,6"), ("--outputs", "x")]
)
def test_how_a_model_is_traced_needs_one(folder, argv):
    pair(folder)
    done = run(folder, "align", *AB, *argv)
    assert done.code == 2
    assert f"{argv[0]} says how a model is traced, and needs --model TARGET" in done.err


def test_lerp_takes_a_model_only_to_align(folder):
    planted(folder)
    done = run(folder, "lerp", *AB, *MODEL, "--steps", "1")
    assert done.code == 2
    assert "--model says how to align, and needs --align" in done.err


def test_free_outputs_leave_nothing_to_check_an_application_with(folder):
    planted(folder)
    run(folder, "align", *AB, *MODEL, "--save-permutation", "p.safetensors")
    done = run(folder, "apply", "p.safetensors", "b.safetensors", *MODEL, "--free-outputs")
    assert done.code == 2
    assert "--free-outputs lets the outputs move" in done.err


def test_a_sequential_model_of_torch_itself_is_traced(folder):
    (folder / "plain.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    sizes = [(6, 8), (8, 11), (11, 9), (9, 4)]\n"
        "    layers = [m for s in sizes for m in (nn.Linear(*s), nn.ReLU())]\n"
        "    return nn.Sequential(*layers[:-1])\n"
    )
    pair(folder)
    done = run(folder, "align", *AB, "--model", "plain.py:build", "--json")
    bundled = run(folder, "align", *AB, "--spec", "mlp", "-f", "--json")
    assert done.events[1]["objective"] == bundled.events[1]["objective"]
