"""`merge --symmetry orthogonal`: each model next to the folded reference, then the mean."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import USER, model_of, store, write_copies
from tests.symmetry.small import NETS, ONE_QUICK, case, outputs

ALL = ("a.safetensors", "b.safetensors", "c.safetensors")
ORTHOGONAL = ("--spec", "my.yaml", "--symmetry", "orthogonal")
UNIVERSE = ("--strategy", "universe")


def by_activations(kind: str) -> tuple[str, ...]:
    return ("--method", "activations", "--model", model_of(kind), "--data", "user.py:batches")


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_three_rotated_copies_have_a_mean_that_computes_what_they_do(kind, tmp_path):
    found = write_copies(tmp_path, kind)
    done = rebasin("merge", *ALL, *ORTHOGONAL, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines == ["merged.safetensors"]
    assert "a.safetensors folded: 5 norms" in done.err
    assert "c.safetensors aligned to a.safetensors by orthogonal maps" in done.err
    assert "3 models merged: each model was aligned to the folded reference" in done.err
    near = outputs(found.net, found.state)
    merged = load_file(tmp_path / "merged.safetensors")
    assert (outputs(found.net, merged) - near).abs().max() < 0.2
    rebasin("merge", *ALL, "--strategy", "none", "-o", "naive.safetensors", cwd=tmp_path)
    naive = load_file(tmp_path / "naive.safetensors")
    assert (outputs(found.net, naive) - near).abs().max() > 1


def test_differences_of_rotated_models_are_taken_in_the_frame_of_the_folded_base(tmp_path):
    found = write_copies(tmp_path, "rotary")
    way = ("--base", ALL[0], "--combine", "task-arithmetic", "--scale", "0.5")
    done = rebasin("merge", *ALL[1:], *way, *ORTHOGONAL, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (
        "2 models merged by task-arithmetic, scale 0.5: each model was aligned to the" in done.err
    )
    merged = load_file(tmp_path / "merged.safetensors")
    near = outputs(found.net, found.state)
    assert (outputs(found.net, merged) - near).abs().max() < 0.2


@pytest.mark.parametrize("kind", ONE_QUICK)
@pytest.mark.parametrize("strategy", ["star", pytest.param("universe", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_every_way_finds_rotated_copies_in_the_frame_of_the_reference(
    kind, strategy, method, tmp_path
):
    found = write_copies(tmp_path, kind)
    way = by_activations(kind) if method == "activations" else ()
    args = (*ALL, *ORTHOGONAL, "--strategy", strategy, *way, "--ref", ALL[1])
    done = rebasin("merge", *args, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    folded, first, last, merged = (e for e in done.events if e["event"] == "result")
    assert (folded["model"], first["reference"]) == (ALL[1], ALL[1])
    assert [one["cosine"]["after"] > 0.98 for one in (first, last)] == [True, True]
    assert merged["strategy"] == strategy
    mean = load_file(tmp_path / "merged.safetensors")
    assert (outputs(found.net, mean) - outputs(found.net, found.state)).abs().max() < 0.2
    rebasin("fold", ALL[1], "--spec", "my.yaml", cwd=tmp_path)
    reference = load_file(tmp_path / "b.folded.safetensors")
    assert (mean["embed.weight"] - reference["embed.weight"]).abs().max() < 0.02


def write_unrelated(folder, kind):
    """Write three models that have nothing in common, their spec and their code."""
    for seed, name in enumerate(ALL):
        store(folder / name, case(kind, seed).state)
    (folder / "my.yaml").write_text(NETS[kind])
    (folder / "user.py").write_text(USER)


def length_of_mean(folder, *options):
    """Return the length of the mean: the longer, the more the models agree, two by two."""
    done = rebasin("merge", *ALL, *ORTHOGONAL, *options, "-f", cwd=folder)
    assert done.code == 0, done.err
    mean = load_file(folder / "merged.safetensors")
    return float(sum(tensor.square().sum() for tensor in mean.values())) ** 0.5


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_next_to_the_mean_all_models_agree_more_than_next_to_one_of_them(kind, tmp_path):
    write_unrelated(tmp_path, kind)
    star = length_of_mean(tmp_path)
    assert length_of_mean(tmp_path, *UNIVERSE) > 1.01 * star


@pytest.mark.slow
def test_what_the_models_do_decides_where_there_is_data(tmp_path):
    write_unrelated(tmp_path, "rotary")
    by_weights = length_of_mean(tmp_path, *UNIVERSE)
    assert length_of_mean(tmp_path, *UNIVERSE, *by_activations("rotary")) != by_weights


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_every_model_keeps_its_function_whatever_it_is_aligned_to(kind, tmp_path):
    write_unrelated(tmp_path, kind)
    way = (*UNIVERSE, *by_activations(kind))
    done = rebasin("merge", *ALL, *ORTHOGONAL, *way, "--json", cwd=tmp_path)
    moved = [e["output_difference"] for e in done.events if e.get("cosine")]
    assert len(moved) == 2
    assert max(moved) < 1e-6


def test_weights_are_those_of_the_aligned_models(tmp_path):
    write_copies(tmp_path, "rotary")
    rebasin("align", *ALL[:2], *ORTHOGONAL, cwd=tmp_path)
    rebasin("merge", *ALL[:2], *ORTHOGONAL, "-w", "3,1", cwd=tmp_path)
    first, last, found = (
        load_file(tmp_path / f"{n}.safetensors") for n in ("a.folded", "b.aligned", "merged")
    )
    assert all(
        torch.allclose(found[n], 0.75 * first[n] + 0.25 * last[n], rtol=0, atol=1e-14)
        for n in first
    )


def test_another_reference_may_be_named(tmp_path):
    write_copies(tmp_path, "layer norm")
    done = rebasin("merge", *ALL, *ORTHOGONAL, "--ref", "b.safetensors", cwd=tmp_path)
    assert "b.safetensors folded: 5 norms" in done.err
    assert "a.safetensors aligned to b.safetensors by orthogonal maps" in done.err
    rebasin("fold", "b.safetensors", "--spec", "my.yaml", cwd=tmp_path)
    merged, folded = (load_file(tmp_path / f"{n}.safetensors") for n in ("merged", "b.folded"))
    assert (merged["embed.weight"] - folded["embed.weight"]).abs().max() < 0.01


def test_folded_models_of_one_basin_are_averaged_as_they_are(tmp_path):
    write_copies(tmp_path, "rotary")
    pair = rebasin("align", *ALL[:2], *ORTHOGONAL, cwd=tmp_path).lines
    done = rebasin("merge", *pair, *ORTHOGONAL, cwd=tmp_path)
    assert "they lie in one basin already" in done.err
    assert "aligned to" not in done.err
    first, last, found = (load_file(tmp_path / name) for name in (*pair, "merged.safetensors"))
    assert all(torch.equal(found[n], (first[n] + last[n]) / 2) for n in first)
    again = rebasin("merge", *pair, *ORTHOGONAL, "--strategy", "star", "-f", cwd=tmp_path)
    assert "b.aligned.safetensors aligned to a.folded.safetensors" in again.err
    assert " folded: " not in again.err  # it is already


def test_models_in_one_basin_that_are_not_folded_are_rotated(tmp_path):
    write_copies(tmp_path, "rotary")
    plain = (tmp_path / "my.yaml").read_text().replace(", maps: rotary", ", fixed: true")
    (tmp_path / "plain.yaml").write_text(plain)
    pair = rebasin("align", *ALL[:2], "--spec", "plain.yaml", cwd=tmp_path).lines
    done = rebasin("merge", *pair, *ORTHOGONAL, cwd=tmp_path)
    assert "b.aligned.safetensors aligned to a.safetensors by orthogonal maps" in done.err


def test_averages_beside_the_weights_are_merged_as_they_are(tmp_path):
    write_copies(tmp_path, "rotary")
    for name in "abc":
        state = load_file(tmp_path / f"{name}.safetensors")
        ema = {n: t.clone() for n, t in state.items()}
        torch.save({"state_dict": state, "ema": ema}, tmp_path / f"{name}.pt")
    done = rebasin("merge", "a.pt", "b.pt", "c.pt", *ORTHOGONAL, cwd=tmp_path)
    assert done.code == 0, done.err
    found = torch.load(tmp_path / "merged.pt", weights_only=True)
    assert all(torch.equal(found["ema"][n], v) for n, v in found["state_dict"].items())


def test_events_tell_of_every_model(tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("merge", *ALL, *ORTHOGONAL, "--json", cwd=tmp_path)
    folded, b, c, merged = (event for event in done.events if event["event"] == "result")
    assert folded["norms"] == 5
    assert [e["cosine"]["after"] > 0.98 for e in (b, c)] == [True, True]
    assert (merged["strategy"], merged["aligned"]) == ("star", True)
    assert [event.get("path") for event in (folded, b, c)] == [None] * 3
    assert merged["path"] == "merged.safetensors"


def test_a_plan_says_by_which_maps(tmp_path):
    write_copies(tmp_path, "rotary")
    plan = json.loads(rebasin("merge", *ALL, *ORTHOGONAL, "-n", cwd=tmp_path).out)
    assert (plan["strategy"], plan["symmetry"]) == ("star", "orthogonal")
    assert plan["maps"]["stream"] == "orthogonal"
    assert not (tmp_path / "merged.safetensors").exists()
    way = (*UNIVERSE, *by_activations("rotary"), "-n")
    plan = json.loads(rebasin("merge", *ALL, *ORTHOGONAL, *way, cwd=tmp_path).out)
    assert (plan["strategy"], plan["data"]) == ("universe", "user.py:batches")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--strategy", "many"), "--strategy many does not go with", "mean of the others"),
        (("--method", "activations"), "a model has to be run", "--model file.py:Class"),
        (by_activations("rotary")[:4], "there is no data to run", "--data file.py:batches"),
        (by_activations("rotary")[2:], "matching by weights uses no data", "--method activations"),
        (("--strategy", "none"), "--strategy none does not go with", "--strategy star"),
        (("--strategy", "moon"), "no value of --strategy is called 'moon'", ""),
        (("--method", "zipit"), "--symmetry orthogonal has no method 'zipit'", "--method weights"),
        (("--preserve-first", "2"), "--preserve-first permutes units", ""),
        (("--renormalize", "rescale"), "--renormalize does not go with", "rebasin renormalize"),
    ],
)
def test_other_ways_to_merge_are_refused(options, message, hint, tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("merge", *ALL, *ORTHOGONAL, *options, cwd=tmp_path)
    assert done.code == 2, done.err
    assert message in done.err
    assert hint in done.err
    assert not (tmp_path / "merged.safetensors").exists()


def test_all_models_that_are_run_at_once_have_to_fit_into_memory(tmp_path):
    """Four of them in float64 take 32 bytes a number, and the search for maps of two 24."""
    found = write_copies(tmp_path, "rotary")
    store(tmp_path / "d.safetensors", found.state)
    room = 28 * sum(tensor.numel() for tensor in found.state.values())
    small = (*ORTHOGONAL, *by_activations("rotary"), "--max-memory", f"{room}B")
    done = rebasin("merge", *ALL, "d.safetensors", *small, cwd=tmp_path)
    assert done.code != 0
    assert "--method activations runs 4 models at once, about " in done.err
    assert rebasin("merge", *ALL, *small, cwd=tmp_path).code == 0
