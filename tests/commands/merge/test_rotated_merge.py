"""`merge --symmetry orthogonal`: each model next to the folded reference, then the mean."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import write_copies
from tests.symmetry.small import NETS, outputs

ALL = ("a.safetensors", "b.safetensors", "c.safetensors")
ORTHOGONAL = ("--spec", "my.yaml", "--symmetry", "orthogonal")


@pytest.mark.parametrize("kind", NETS)
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


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--strategy", "many"), "--strategy many does not go with", "--strategy star"),
        (("--strategy", "none"), "--strategy none does not go with", "--strategy star"),
        (("--strategy", "moon"), "no strategy is called 'moon'", ""),
        (("--method", "zipit"), "--symmetry orthogonal has no method 'zipit'", "--method weights"),
        (("--preserve-first", "2"), "--preserve-first permutes units", ""),
        (("--renormalize", "rescale"), "--renormalize does not go with", "rebasin renormalize"),
        (("--device", "cuda"), "--symmetry orthogonal runs on the CPU", "leave out --device"),
    ],
)
def test_other_ways_to_merge_are_refused(options, message, hint, tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("merge", *ALL, *ORTHOGONAL, *options, cwd=tmp_path)
    assert done.code == 2, done.err
    assert message in done.err
    assert hint in done.err
    assert not (tmp_path / "merged.safetensors").exists()
