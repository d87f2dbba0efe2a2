"""`lerp --symmetry orthogonal`: the line between a folded model and another moved next to it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import model_of, write_copies
from tests.symmetry.small import ONE_QUICK, outputs

PAIR = ("a.safetensors", "b.safetensors", "--spec", "my.yaml", "--symmetry", "orthogonal")


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_the_ends_are_what_align_writes_and_the_middle_is_their_mean(kind, tmp_path):
    found = write_copies(tmp_path, kind, dtype=torch.float32)
    rebasin("align", *PAIR, cwd=tmp_path)
    first, last = (load_file(tmp_path / f"{n}.safetensors") for n in ("a.folded", "b.aligned"))
    done = rebasin("lerp", *PAIR, "--steps", "1", "--endpoints", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines == [
        f"lerp/alpha-{a}.safetensors" for a in ("0.000000", "0.500000", "1.000000")
    ]
    start, middle, end = (load_file(tmp_path / line) for line in done.lines)
    assert all(torch.equal(start[n], first[n]) and torch.equal(end[n], last[n]) for n in first)
    assert all(torch.allclose(middle[n], (first[n] + last[n]) / 2, atol=1e-7) for n in first)
    near = outputs(found.net, found.state)
    assert (outputs(found.net, middle) - near).abs().max() < 0.2


def test_the_reference_is_said_to_be_folded_and_not_written(tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("lerp", *PAIR, "--at", "0.5", "-o", "m.safetensors", cwd=tmp_path)
    assert done.lines == ["m.safetensors"]
    assert "a.safetensors folded: 5 norms became part of the weights that read them" in done.err
    assert "b.safetensors aligned to a.safetensors by orthogonal maps" in done.err
    assert "average it with" not in done.err
    assert not (tmp_path / "a.folded.safetensors").exists()


def test_a_point_lies_in_the_basin_of_the_folded_reference(tmp_path):
    write_copies(tmp_path, "rotary")
    rebasin("align", *PAIR, cwd=tmp_path)
    rebasin("lerp", *PAIR, "--at", "0.5", "-o", "m.safetensors", cwd=tmp_path)
    point = ("merge", "m.safetensors", "b.aligned.safetensors", "--spec", "my.yaml")
    assert "they lie in one basin already" in rebasin(*point, cwd=tmp_path).err
    rotated = rebasin(*point, "--symmetry", "orthogonal", "-f", cwd=tmp_path)
    assert "they lie in one basin already" in rotated.err


def test_models_of_a_chain_all_come_next_to_the_first(tmp_path):
    found = write_copies(tmp_path, "layer norm")
    chain = ("lerp", "a.safetensors", "b.safetensors", "c.safetensors", "--chain", *PAIR[2:])
    done = rebasin(*chain, "--at", "0.5,1.5", cwd=tmp_path)
    assert done.code == 0, done.err
    near = outputs(found.net, found.state)
    for line in done.lines:
        assert (outputs(found.net, load_file(tmp_path / line)) - near).abs().max() < 0.2


def test_averages_beside_the_weights_are_moved_as_they_are(tmp_path):
    write_copies(tmp_path, "rotary")
    for name in "ab":
        state = load_file(tmp_path / f"{name}.safetensors")
        ema = {n: t.clone() for n, t in state.items()}
        torch.save({"state_dict": state, "ema": ema}, tmp_path / f"{name}.pt")
    done = rebasin("lerp", "a.pt", "b.pt", *PAIR[2:], "--at", "0.5", "-o", "m.pt", cwd=tmp_path)
    assert done.code == 0, done.err
    found = torch.load(tmp_path / "m.pt", weights_only=True)
    assert all(torch.equal(found["ema"][n], v) for n, v in found["state_dict"].items())
    assert not torch.equal(
        found["ema"]["embed.weight"], load_file(tmp_path / "a.safetensors")["embed.weight"]
    )


def test_a_command_is_run_on_each_point(tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("lerp", *PAIR, "--steps", "1", "--exec", "echo {alpha}", cwd=tmp_path)
    assert done.lines == ["0.500000\t0.5"]
    assert not (tmp_path / "lerp").exists()


def test_a_plan_says_by_which_maps(tmp_path):
    write_copies(tmp_path, "rotary")
    plan = json.loads(rebasin("lerp", *PAIR, "--steps", "1", "-n", cwd=tmp_path).out)
    assert (plan["symmetry"], plan["maps"]["rope.0"]) == ("orthogonal", "rotary")
    assert not (tmp_path / "lerp").exists()


def test_that_functions_stay_is_seen_by_running_the_model(tmp_path):
    write_copies(tmp_path, "rotary")
    model = ("--model", model_of("rotary"), "--input", "user.py:tokens")
    with (tmp_path / "user.py").open("a") as user:
        user.write("def tokens(): return next(batches())\n")
    done = rebasin("lerp", *PAIR, "--at", "0.5", "--json", *model, cwd=tmp_path)
    assert done.code == 0, done.err
    moved = [e["output_difference"] for e in done.events if "output_difference" in e]
    assert len(moved) == 2  # the reference, which is folded, and the other
    assert max(moved) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "activations"), "--symmetry orthogonal has no method 'activations'"),
        (("--common",), "--common is of permutations"),
        (("--skip", "embed.weight"), "units of stream have to stay where they are"),
        (("--symmetry", "orthogonl"), "no value of --symmetry is called 'orthogonl'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message, tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin("lerp", *PAIR, "--steps", "1", *options, cwd=tmp_path)
    assert done.code == 2, done.err
    assert message in done.err
    assert not (tmp_path / "lerp").exists()


def test_a_traced_spec_rotates_as_a_written_one_does(tmp_path):
    found = write_copies(tmp_path, "layer norm", dtype=torch.float32)
    with (tmp_path / "user.py").open("a") as user:
        user.write("from tests.symmetry.small import layer_norm as plain\n")
        user.write("def tokens(): return next(batches())[0]\n")
    traced = ("--model", "user.py:plain", "--input", "user.py:tokens", "--no-cache")
    argv = ("lerp", *PAIR[:2], "--symmetry", "orthogonal", "--at", "0.5", *traced)
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "spec traced from user.py:plain" in done.err
    middle, near = load_file(tmp_path / done.lines[0]), outputs(found.net, found.state)
    assert (outputs(found.net, middle) - near).abs().max() < 0.2
