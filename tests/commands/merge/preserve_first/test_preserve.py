"""`rebasin merge --preserve-first`: the first layers of every model stay, the others become one."""

import json
import subprocess
import sys

import pytest
import torch

from tests.cli.build import load, save
from tests.cli.harness import rebasin
from tests.commands.merge.preserve_first.preserving import built, classes, preserved

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def models(tmp_path):
    """Write the classes, and give what writes checkpoints of one of them."""
    with classes(tmp_path) as write:
        yield write


def test_the_result_is_what_one_would_write_by_hand(tmp_path, models):
    one, two = models("Net")
    done = preserved(tmp_path, "1", "--strategy", "none", "-w", "3,1")
    assert (done.code, done.lines) == (0, ["merged.safetensors"]), done.err
    model = built(tmp_path / "merged.py", tmp_path / "merged.safetensors")
    with torch.no_grad():
        hidden = 0.75 * one.net[:3](X) + 0.25 * two.net[:3](X)
        for old, other in zip(one.net[3:].parameters(), two.net[3:].parameters(), strict=True):
            old.mul_(0.75).add_(other, alpha=0.25)
        torch.testing.assert_close(model(X), one.net[3:](hidden))
    names = set(model.state_dict())
    kept = {n for n in one.state_dict() if n.startswith(("net.0.", "net.1."))}
    assert names == {f"parents.{k}.{n}" for k in (0, 1) for n in kept} | {
        f"trunk.{n}" for n in one.state_dict() if n not in kept
    }


@pytest.mark.parametrize("first", ["1", "2"])
def test_copies_of_one_model_compute_what_it_does(tmp_path, models, first):
    (one,) = models("Net", seeds=(1,))
    assert preserved(tmp_path, first, paths=("a.safetensors",) * 3).code == 0
    model = built(tmp_path / "merged.py", tmp_path / "merged.safetensors")
    torch.testing.assert_close(model.double()(X.double()), one.double()(X.double()))


def test_tensors_that_are_left_out_are_those_of_the_reference(tmp_path, models):
    _, two = models("Net")
    argv = ("--strategy", "none", "--ref", "b.safetensors", "--skip", "net.5.*")
    assert preserved(tmp_path, "1", *argv).code == 0
    found = load(tmp_path / "merged.safetensors")
    assert torch.equal(found["trunk.net.5.weight"], two.net[5].weight)
    assert not torch.equal(found["trunk.net.3.weight"], two.net[3].weight)


def test_the_dtype_of_the_result_can_be_chosen(tmp_path, models):
    one, _ = models("Net")
    assert preserved(tmp_path, "1", "--strategy", "none", "--dtype", "bfloat16").code == 0
    found = load(tmp_path / "merged.safetensors")
    assert torch.equal(found["parents.0.net.0.weight"], one.net[0].weight.bfloat16())
    assert found["parents.0.net.1.num_batches_tracked"].dtype == torch.int64


def test_models_in_other_orders_are_aligned_first(tmp_path, models):
    one, _ = models("Net")
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    state = {n: t.clone() for n, t in one.state_dict().items()}
    for name, tensor in list(state.items()):
        if tensor.dim() and len(tensor) == 16:
            state[name] = tensor[order].contiguous()
    state["net.3.weight"] = state["net.3.weight"][:, order].contiguous()
    save(tmp_path / "b.safetensors", state)
    done = preserved(tmp_path, "1")
    assert done.code == 0, done.err
    model = built(tmp_path / "merged.py", tmp_path / "merged.safetensors")
    torch.testing.assert_close(model(X), one(X))


def test_a_network_with_skips_is_cut_between_its_blocks(tmp_path, models):
    models("Residual")
    refused = preserved(tmp_path, "2", model="net.py:Residual")
    assert refused.code == 2
    assert "the model cannot be cut behind 'blocks.0.up', its 2nd layer" in refused.err
    assert "--preserve-first 3 (next: joined at 'blocks.1')" in refused.err
    assert "--preserve-first 1 (before: joined at 'blocks.0')" in refused.err
    assert not (tmp_path / "merged.py").exists()
    done = preserved(tmp_path, "blocks.0", "--json", model="net.py:Residual")
    event = done.events[0]
    assert (event["join"], event["layers"]) == ("blocks.1", 6)
    assert event["kept"] == ["stem", "blocks.0.up", "blocks.0.down"]
    assert event["max_difference"] <= 1e-10
    single = 56 + 2 * (90 + 88) + 36
    assert event["parameters"] == single + 56 + 90 + 88
    assert event["parameters_ratio"] == pytest.approx(event["parameters"] / single)
    part, whole = 48 + 160, 48 + 320 + 32
    assert event["cost_ratio"] == pytest.approx(1 + part / whole)
    built(tmp_path / "merged.py", tmp_path / "merged.safetensors")


def test_a_table_tied_to_the_output_is_kept_at_one_end_and_merged_at_the_other(tmp_path, models):
    one, two = models("Tied")
    done = preserved(tmp_path, "1", "--strategy", "none", model="net.py:Tied")
    assert done.code == 0, done.err
    found = load(tmp_path / "merged.safetensors")
    assert torch.equal(found["parents.1.embed.weight"], two.embed.weight)
    mean = (one.embed.weight + two.embed.weight) / 2
    torch.testing.assert_close(found["trunk.out.weight"], mean.detach())
    built(tmp_path / "merged.py", tmp_path / "merged.safetensors")


def test_the_result_is_traced_and_looked_at_like_any_other_model(tmp_path, models):
    models("Net")
    assert preserved(tmp_path, "1").code == 0
    done = rebasin("spec", "trace", "merged.py:build", "--no-cache", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "Validated" in done.out
    assert "trunk.net.3.weight: [trunk.net.3, parents.0.net.0]" in done.out
    done = rebasin("inspect", "merged.safetensors", "--json", cwd=tmp_path)
    assert "trunk.net.3.weight" in [t["name"] for t in done.events[0]["tensors"]]


@pytest.mark.slow
def test_the_module_needs_torch_and_the_class_alone_and_moves_with_them(tmp_path, models):
    models("Net")
    assert preserved(tmp_path, "1", "-o", "made/soup.safetensors").code == 2  # no such folder
    done = preserved(tmp_path, "1", "-o", "made/")
    assert (done.code, done.lines) == (0, ["made/merged.safetensors"]), done.err
    text = (tmp_path / "made" / "merged.py").read_text()
    assert str(tmp_path) not in text
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("net.py", "parts.py", "made"):
        (tmp_path / name).rename(moved / name)
    code = (
        "import sys, torch; sys.path.insert(0, 'made'); from merged import build; "
        "from safetensors.torch import load_file; model = build(); "
        "model.load_state_dict(load_file('made/merged.safetensors')); "
        "print(tuple(model.eval()(torch.randn(2, 6)).shape), 'rebasin_cli' in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code]
    ran = subprocess.run(command, cwd=moved, capture_output=True, text=True, check=False)
    assert ran.stdout.split("\n")[0] == "(2, 4) False", ran.stderr


def test_the_module_is_formatted_and_says_how_to_load_it(tmp_path, models):
    models("Net")
    args = '{"hidden": 16}'
    assert preserved(tmp_path, "1", "--model-args", args, "-o", "soup.pt").code == 0
    text = (tmp_path / "soup.py").read_text()
    assert "from soup import build" in text
    assert 'torch.load("soup.pt", weights_only=True)' in text
    assert '"hidden": 16,' in text
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "100"]
    command += ["--check", "soup.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    built(tmp_path / "soup.py", tmp_path / "soup.pt")


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("soup.PT", 'torch.load("soup.PT", weights_only=True)'),
        ("soup.pth.tar", 'torch.load("soup.pth.tar", weights_only=True)'),
        ("soup.PTH.TAR", 'torch.load("soup.PTH.TAR", weights_only=True)'),
        ("soup.Safetensors", 'load_file("soup.Safetensors")'),
    ],
)
def test_an_ending_means_its_format_as_for_every_result(tmp_path, models, name, load):
    models("Net")
    assert preserved(tmp_path, "1", "-o", name).code == 0
    assert load in (tmp_path / "soup.py").read_text()
    built(tmp_path / "soup.py", tmp_path / name)


def test_the_result_is_called_as_the_first_model_is(tmp_path, models):
    models("Net")
    paths = [f"{letter}.PTH.TAR" for letter in "ab"]
    for path in paths:
        save(tmp_path / path, load(tmp_path / f"{path[0]}.safetensors"))
    assert preserved(tmp_path, "1", paths=paths).code == 0
    built(tmp_path / "merged.py", tmp_path / "merged.PTH.TAR")


def test_a_finished_model_is_copied(tmp_path, models):
    models("Net")
    assert preserved(tmp_path, "1", model="net.py:made").code == 0
    built(tmp_path / "merged.py", tmp_path / "merged.safetensors")


def test_a_dry_run_says_where_it_would_be_cut(tmp_path, models):
    models("Net")
    done = preserved(tmp_path, "net.0", "-n")
    plan = json.loads(done.out)
    assert (plan["join"], plan["kept"], plan["layers"]) == ("net.3", ["net.0"], 3)
    assert plan["module"] == "merged.py"
    assert [o["path"] for o in plan["outputs"]] == ["merged.safetensors"]
    assert not (tmp_path / "merged.py").exists()


def test_the_summary_says_what_it_costs(tmp_path, models):
    models("Net")
    done = preserved(tmp_path, "1", "--strategy", "none")
    assert "1 of 3 layers kept of each model, up to net.0; joined at the input of net.3" in done.err
    assert "times those of one model; a pass costs about" in done.err
    assert "copies of one model compute what it does" in done.err
    assert "merged.py builds it: --model merged.py:build" in done.err


DATA = """
import torch


def labelled():
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        yield (
            torch.randn(20, 6, generator=generator),
            torch.randint(4, (20,), generator=generator),
        )


def bare():
    return (inputs for inputs, _ in labelled())
"""


def test_data_judge_the_result_beside_the_models_and_their_ensemble(tmp_path, models):
    parents = models("Net")
    (tmp_path / "data.py").write_text(DATA)
    argv = ("--strategy", "none", "-w", "3,1", "--data", "data.py:labelled")
    done = preserved(tmp_path, "1", *argv, "--json")
    assert done.code == 0, done.err
    (event, _) = done.events
    space: dict = {}
    exec(DATA, space)
    inputs, targets = (torch.cat(parts) for parts in zip(*space["labelled"](), strict=True))
    merged = built(tmp_path / "merged.py", tmp_path / "merged.safetensors")
    with torch.no_grad():
        answers = [model(inputs).double() for model in (merged, *parents)]
    odds = [each.softmax(-1) for each in answers]
    everyone = [*odds, 0.75 * odds[1] + 0.25 * odds[2]]
    scores = event["scores"]
    told = [scores["merged"], *scores["models"], scores["ensemble"]]
    for found, likely in zip(told, everyone, strict=True):
        loss = -likely[torch.arange(len(targets)), targets].log().mean()
        assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert event["flops"] == 2 * (2 * 6 * 16) + 2 * (16 * 12 + 12 * 4)
    assert event["single"]["flops"] == 2 * (6 * 16 + 16 * 12 + 12 * 4)
    done = preserved(tmp_path, "1", *argv, "-f")
    assert "; of their ensemble loss " in done.err
    assert f"{event['flops']:,} FLOPs an input" in done.err


def test_data_without_answers_judge_nothing_and_it_says_why(tmp_path, models):
    models("Net")
    (tmp_path / "data.py").write_text(DATA)
    done = preserved(tmp_path, "1", "--data", "data.py:bare", "--json")
    (event, _) = done.events
    assert event["scores"] is None
    assert event["no_ensemble"].startswith("the data has no targets of its own")
