"""`align --select N` with orthogonal maps among the candidates."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.commands.align.select.candidate_pair import TriedCandidate
from rebasin_cli.commands.align.select.candidates import Candidate
from rebasin_cli.commands.align.select.run import Selected, in_one_class
from rebasin_cli.options.search import Search
from tests.cli.harness import rebasin
from tests.commands.align.test_auto import answers, contents, permuted_only, written
from tests.symmetry.rotated_files import USER, model_of
from tests.symmetry.small import ONE_QUICK, TOKENS, WORDS, case

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "my.yaml")


def running(folder, kind, truth, *symmetry):
    """Write two models and the code that runs them; return the command line."""
    written(folder, kind, truth)
    (folder / "user.py").write_text(USER)
    run = ("--model", model_of(kind), "--data", "user.py:batches")
    return (*ALIGN, *run, *(("--symmetry", *symmetry) if symmetry else ()))


@pytest.mark.parametrize("kind", ONE_QUICK)
@pytest.mark.parametrize("truth", ["permutation", "orthogonal"])
def test_auto_takes_the_best_of_both_classes(kind, truth, tmp_path):
    command = running(tmp_path, kind, truth, "auto")
    done = rebasin(*command, "--select", "3", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    choice, first, aligned, _ = done.events
    losses = {(one["symmetry"], one["name"]): one["loss"] for one in choice["candidates"]}
    best = min(losses, key=losses.__getitem__)
    assert list(losses) == [
        ("orthogonal", "default"),
        ("permutation", "default"),
        ("orthogonal", "activations"),
    ]
    assert (choice["symmetry"], choice["name"]) == best
    assert choice["loss_against"] == "answers"
    if truth == "orthogonal":
        assert choice["symmetry"] == "orthogonal"
        assert losses["permutation", "default"] > choice["loss"] + 0.1
    if choice["symmetry"] == "orthogonal":
        assert first["path"].endswith("a.folded.safetensors")
        (cosine,) = (
            o["cosine"] for o in choice["candidates"] if (o["symmetry"], o["name"]) == best
        )
        assert cosine == aligned["cosine"]["after"]
    assert aligned["output_difference"] < 1e-6


def test_the_loss_is_that_of_the_average_of_what_is_written(tmp_path):
    command = running(tmp_path, "layer norm", "orthogonal", "orthogonal")
    choice = rebasin(*command, "--select", "2", "--batches", "2", "--json", cwd=tmp_path).events[0]
    states = [
        {n: t.double() for n, t in load_file(tmp_path / f"{name}.safetensors").items()}
        for name in ("a", "b", "a.folded", "b.aligned")
    ]
    middle = {n: (states[2][n] + states[3][n]) / 2 for n in states[2]}
    net = case("layer norm").net
    rows = torch.randint(WORDS, (4, TOKENS), generator=torch.Generator().manual_seed(0))
    first, second, between = (answers(net, each, rows) for each in (*states[:2], middle))
    targets = (first.softmax(-1) + second.softmax(-1)) / 2
    expected = -(targets * between.log_softmax(-1)).sum(-1).mean()
    assert choice["loss"] == pytest.approx(float(expected), abs=1e-4)
    assert choice["batches"] == 1


@pytest.mark.slow
def test_the_default_of_rotations_is_what_is_written_without_choosing(tmp_path):
    command = running(tmp_path, "rotary", "orthogonal", "orthogonal")
    choice = rebasin(*command, "--select", "50", "--json", cwd=tmp_path).events[0]
    assert [one["name"] for one in choice["candidates"]] == ["default", "activations"]
    options = ("--symmetry", "orthogonal", "--json", "-f")
    plain = rebasin(*ALIGN, *options, cwd=tmp_path).events
    assert choice["candidates"][0]["cosine"] == plain[1]["cosine"]["after"]
    by_data = (*command, "--method", "activations", "--json", "-f")
    plain = rebasin(*by_data, cwd=tmp_path).events
    chosen = rebasin(*by_data, "--select", "2", "--held-out", "0.1", cwd=tmp_path).events[0]
    names = {one["name"]: one for one in chosen["candidates"]}
    assert list(names) == ["default", "weights"]
    assert names["weights"]["cosine"] == choice["candidates"][0]["cosine"]
    assert names["default"]["cosine"] == pytest.approx(plain[1]["cosine"]["after"], abs=1e-2)


@pytest.mark.slow
def test_chosen_maps_are_those_that_learning_begins_with(tmp_path):
    command = running(tmp_path, "rotary", "orthogonal", "orthogonal")
    options = ("--select", "2", "--learn", "3", "--held-out", "0.5", "--json")
    done = rebasin(*command, *options, cwd=tmp_path)
    assert done.code == 0, done.err
    choice, _, aligned, _ = done.events
    assert aligned["learned"]["losses"]["0"] == pytest.approx(choice["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_spec_of_permutations_alone_leaves_these(tmp_path):
    command = running(tmp_path, "rotary", "permutation", "auto")
    (tmp_path / "my.yaml").write_text(permuted_only("rotary"))
    choice = rebasin(*command, "--select", "3", "--json", cwd=tmp_path).events[0]
    assert {one["symmetry"] for one in choice["candidates"]} == {"permutation"}


def test_one_class_is_chosen_for_all_and_a_model_that_fails_is_told_of(tmp_path):
    command = running(tmp_path, "rotary", "orthogonal", "auto")
    written(tmp_path, "rotary", "orthogonal", "c", seed=2)
    broken = load_file(tmp_path / "b.safetensors")
    broken["0.k.weight"][0, 0] = torch.nan
    save_file(broken, tmp_path / "d.safetensors")
    models = ("align", "a.safetensors", "d.safetensors", "b.safetensors", "c.safetensors")
    done = rebasin(*models, *command[3:], "--select", "3", cwd=tmp_path)
    assert done.code == 5, done.err
    found = re.findall(r"^(.)\.safetensors: orthogonal maps, \w+ chosen", done.err, re.M)
    assert found == ["b", "c"]
    assert "tensor '0.k.weight' holds NaN or infinity" in done.err
    assert done.lines == ["a.folded.safetensors", "b.aligned.safetensors", "c.aligned.safetensors"]


def tried(model: str, **losses: float) -> Selected:
    """Return what was tried of a model: a candidate of each class, with its loss."""
    judged = tuple(
        TriedCandidate(Candidate("default", kind, Search()), loss=loss)
        for kind, loss in losses.items()
    )
    best = min(judged, key=lambda one: one.loss or 0.0)
    return Selected(Path(model), best, judged, by_targets=True, batches=1, apart=True, seconds=0.0)


def classes(*found: Selected) -> list[str]:
    chosen = in_one_class({one.model: one for one in found}).values()
    return [one.best.candidate.symmetry for one in chosen if isinstance(one, Selected)]


def test_of_several_models_the_class_of_the_least_mean_is_taken_for_all():
    found = [
        tried("b", orthogonal=0.7, permutation=0.6),
        tried("c", orthogonal=0.7, permutation=0.9),
    ]
    assert classes(*found) == ["orthogonal"] * 2
    assert classes(tried("b", orthogonal=0.5, permutation=0.5)) == ["permutation"]


def test_a_plan_has_both_classes_and_the_candidates_and_writes_nothing(tmp_path):
    command = running(tmp_path, "rotary", "orthogonal", "auto")
    before = contents(tmp_path)
    plan = json.loads(rebasin(*command, "--select", "3", "--dry-run", cwd=tmp_path).out)
    assert plan["symmetry"] == "auto"
    assert plan["orthogonal"]["maps"]["stream"] == "orthogonal"
    assert plan["permutation"]["outputs"]
    assert [one["symmetry"] for one in plan["candidates"]] == [
        "orthogonal",
        "permutation",
        "orthogonal",
    ]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("symmetry", "options", "message"),
    [
        ("auto", ("--method", "activations"), "has no method 'activations'"),
        ("auto", ("--learn", "5"), "--learn learns rotations"),
        ("orthogonal", ("--start", "random"), "--start, --restarts and --loss are of permutations"),
        ("orthogonal", ("--method", "sinkhorn"), "has no method 'sinkhorn'"),
    ],
)
def test_what_one_class_does_not_know_is_refused(symmetry, options, message, tmp_path):
    command = running(tmp_path, "rotary", "orthogonal", symmetry)
    done = rebasin(*command, "--select", "3", *options, cwd=tmp_path)
    assert done.code == 2, done.err
    assert message in done.err
    assert not (tmp_path / "b.aligned.safetensors").exists()


def test_an_unknown_symmetry_is_told_with_the_known_ones(tmp_path):
    command = running(tmp_path, "rotary", "orthogonal", "unitary")
    done = rebasin(*command, "--select", "3", cwd=tmp_path)
    assert done.code == 2
    assert "no value of --symmetry is called 'unitary'" in done.err
