"""`align --symmetry orthogonal` and `fold` through the real door."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.harness import rebasin
from tests.symmetry.rotated_files import USER, model_of, rotated, store
from tests.symmetry.small import NETS, ONE_QUICK, TEXTS, case, outputs


def written(folder: Path, kind: str):
    """Write a model, a rotated copy of it with some noise, and their spec; return the case."""
    found = case(kind)
    store(folder / "a.safetensors", found.state)
    store(folder / "b.safetensors", rotated(found, seed=1, noise=0.001))
    (folder / "my.yaml").write_text(TEXTS[kind])
    return found


ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "my.yaml", "--symmetry", "orthogonal")


@pytest.mark.parametrize("kind", [*NETS, "no biases"])
def test_a_rotated_copy_comes_back_beside_the_folded_reference(kind, tmp_path):
    found = written(tmp_path, kind)
    done = rebasin(*ALIGN, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines == ["a.folded.safetensors", "b.aligned.safetensors"]
    assert "aligned to a.folded.safetensors by orthogonal maps" in done.err
    assert "average it with a.folded.safetensors" in done.err
    folded, aligned, other = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("a.folded", "b.aligned", "b")
    )
    near = outputs(found.net, found.state)
    assert torch.allclose(outputs(found.net, folded), near, rtol=0, atol=1e-12)
    assert torch.allclose(outputs(found.net, aligned), outputs(found.net, other), atol=1e-11)
    middle = {n: (folded[n] + aligned[n]) / 2 for n in folded}
    assert (outputs(found.net, middle) - near).abs().max() < 0.2
    naive = {n: (found.state[n] + other[n]) / 2 for n in folded}
    assert (outputs(found.net, naive) - near).abs().max() > 1


def test_what_is_aligned_can_be_merged_as_it_is(tmp_path):
    written(tmp_path, "rotary")
    rebasin(*ALIGN, cwd=tmp_path)
    pair = ("a.folded.safetensors", "b.aligned.safetensors")
    done = rebasin("merge", *pair, "--spec", "my.yaml", cwd=tmp_path)
    assert done.code == 0
    assert "they lie in one basin already" in done.err
    mixed = rebasin("merge", "a.safetensors", pair[1], "--spec", "my.yaml", "-f", cwd=tmp_path)
    assert "one basin" not in mixed.err


def test_a_folded_reference_is_taken_as_it_is(tmp_path):
    written(tmp_path, "layer norm")
    folded = rebasin("fold", "a.safetensors", "--spec", "my.yaml", cwd=tmp_path)
    assert folded.lines == ["a.folded.safetensors"]
    assert "5 norms became part of the weights that read them" in folded.err
    args = ("align", "a.folded.safetensors", *ALIGN[2:])
    done = rebasin(*args, cwd=tmp_path)
    assert done.lines == ["a.folded.safetensors", "b.aligned.safetensors"]
    again = rebasin("fold", "a.folded.safetensors", "--spec", "my.yaml", cwd=tmp_path)
    assert again.code == 2
    assert "the norms of a.folded.safetensors are folded already" in again.err


def test_events_have_the_figures(tmp_path):
    written(tmp_path, "rotary")
    done = rebasin(*ALIGN, "--json", cwd=tmp_path)
    folded, aligned = (event for event in done.events if event["event"] == "result")
    assert folded["path"] == "a.folded.safetensors"
    assert folded["norms"] == 5
    assert aligned["symmetry"] == "orthogonal"
    assert aligned["maps"] == {"orthogonal": 3, "permutation": 6, "rotary": 2, "signed": 2}
    assert aligned["cosine"]["before"] < 0.5
    assert aligned["cosine"]["after"] > 0.98


def test_a_plan_says_which_groups_have_which_maps(tmp_path):
    written(tmp_path, "rotary")
    done = rebasin(*ALIGN, "--dry-run", cwd=tmp_path)
    plan = json.loads(done.out)
    assert plan["maps"]["stream"] == "orthogonal"
    assert plan["maps"]["rope.0"] == "rotary"
    voting = sum(t.numel() for t in load_file(tmp_path / "a.safetensors").values() if t.dim() > 1)
    assert 3 * 8 * voting < plan["memory"] < 5 * 8 * voting  # copies in float64
    assert [Path(out["path"]).name for out in plan["outputs"]] == [
        "a.folded.safetensors",
        "b.aligned.safetensors",
    ]
    assert not (tmp_path / "a.folded.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "sinkhorn"), "--symmetry orthogonal has no method 'sinkhorn'"),
        (("--start", "random"), "--start, --restarts and --loss are of permutations"),
        (("--skip", "embed.weight"), "units of stream have to stay where they are"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message, tmp_path):
    written(tmp_path, "rotary")
    done = rebasin(*ALIGN, *options, cwd=tmp_path)
    assert done.code == 2, done.err
    assert message in done.err
    assert not (tmp_path / "b.aligned.safetensors").exists()


def test_an_unknown_symmetry_is_told_with_the_known_ones(tmp_path):
    written(tmp_path, "rotary")
    done = rebasin(*ALIGN[:-1], "orthogonl", cwd=tmp_path)
    assert done.code == 2
    assert "no value of --symmetry is called 'orthogonl'" in done.err
    assert "orthogonal" in done.err


def test_a_spec_of_permutations_alone_is_no_spec_for_it(tmp_path):
    written(tmp_path, "rotary")
    text = (tmp_path / "my.yaml").read_text()
    plain = re.sub(", maps: (orthogonal|signed)", "", text).replace(
        "{maps: orthogonal}", "{size: 12}"
    )
    plain = plain.replace(", maps: rotary", ", fixed: true")
    (tmp_path / "my.yaml").write_text(plain)
    done = rebasin(*ALIGN, cwd=tmp_path)
    assert done.code == 2, done.err
    assert "spec 'my.yaml' allows nothing but permutations" in done.err


def learning(folder: Path, kind: str) -> tuple[str, ...]:
    """Write two unrelated models and the code that runs them; return the options to learn."""
    (folder / "my.yaml").write_text(NETS[kind])
    (folder / "user.py").write_text(USER)
    for name, seed in (("a", 0), ("b", 1)):
        state = {n: t.float() for n, t in case(kind, seed).state.items()}
        save_file(state, folder / f"{name}.safetensors")
    model = model_of(kind)
    return ("--model", model, "--data", "user.py:batches")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_QUICK)
def test_learned_maps_make_a_better_midpoint_and_keep_both_functions(kind, tmp_path):
    options = learning(tmp_path, kind)
    done = rebasin(*ALIGN, "--learn", "30", *options, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    aligned = [event for event in done.events if event["event"] == "result"][-1]
    losses = aligned["learned"]["losses"]
    assert losses[str(aligned["learned"]["step"])] == min(losses.values())
    assert min(losses.values()) < 0.97 * losses["0"]
    assert aligned["output_difference"] < 1e-6
    again = rebasin(*ALIGN, "--learn", "30", *options, "--json", "-f", cwd=tmp_path)
    assert [e.get("sha256") for e in again.events] == [e.get("sha256") for e in done.events]


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_what_streams_do_on_data_finds_a_rotated_copy_too(kind, tmp_path):
    found = written(tmp_path, kind)
    (tmp_path / "user.py").write_text(USER)
    model = model_of(kind)
    run = ("--method", "activations", "--model", model, "--data", "user.py:batches")
    done = rebasin(*ALIGN, *run, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    aligned = [event for event in done.events if event["event"] == "result"][-1]
    assert aligned["cosine"]["after"] > 0.99
    assert aligned["output_difference"] < 1e-6
    folded, moved = (load_file(tmp_path / f"{n}.safetensors") for n in ("a.folded", "b.aligned"))
    middle = {n: (folded[n] + moved[n]) / 2 for n in folded}
    near = outputs(found.net, found.state)
    assert (outputs(found.net, middle) - near).abs().max() < 0.2


def test_a_gain_outside_a_norm_of_its_own_is_told(tmp_path):
    written(tmp_path, "rotary")
    code = """
class Bare(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight
    def forward(self, x):
        return x
def bare():
    net = with_rotary()
    net.norm = Bare(net.norm)
    return net
"""
    (tmp_path / "user.py").write_text(USER + code)
    run = ("--method", "activations", "--model", "user.py:bare", "--data", "user.py:batches")
    done = rebasin(*ALIGN, *run, "--no-check", cwd=tmp_path)
    assert done.code == 2, done.err
    assert "norm has a gain, and gives out what is not normalised" in done.err


def test_learning_needs_data_and_data_learning(tmp_path):
    options = learning(tmp_path, "rotary")
    without = rebasin(*ALIGN, "--learn", "5", *options[:2], cwd=tmp_path)
    assert without.code == 2
    assert "--data" in without.err
    unused = rebasin(*ALIGN, *options[:4], cwd=tmp_path)
    assert unused.code == 2
    assert "matching by weights uses no data" in unused.err
    plain = rebasin("align", *ALIGN[1:5], "--learn", "5", cwd=tmp_path)
    assert plain.code == 2
    assert "--learn learns rotations" in plain.err


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_saved_maps_bring_another_copy_along_and_back(kind, tmp_path):
    written(tmp_path, kind)
    saved = rebasin(*ALIGN, "--save-permutation", "maps.safetensors", cwd=tmp_path)
    assert "maps saved to maps.safetensors" in saved.err
    done = rebasin("apply", "maps.safetensors", "b.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines == ["b.rotated.safetensors"]
    aligned, rotated = (load_file(tmp_path / f"b.{n}.safetensors") for n in ("aligned", "rotated"))
    assert all(torch.equal(aligned[n], rotated[n]) for n in aligned)
    inverse = ("--inverse", "-o", "back.safetensors")
    back = ("apply", "maps.safetensors", "b.rotated.safetensors", *inverse)
    assert rebasin(*back, cwd=tmp_path).code == 0
    rebasin("fold", "b.safetensors", "--spec", "my.yaml", cwd=tmp_path)
    again, folded = (load_file(tmp_path / f"{n}.safetensors") for n in ("back", "b.folded"))
    assert all(torch.allclose(again[n], folded[n], rtol=0, atol=1e-12) for n in folded)


def test_signs_of_gated_units_are_found_undone_and_verified(tmp_path):
    found, generator = case("rotary"), torch.Generator().manual_seed(5)
    planted = {f"sign.{k}": torch.randint(2, (10,), generator=generator) * 2.0 - 1 for k in "01"}
    other = dict(found.state)
    for k in "01":
        other[f"{k}.up.weight"] = other[f"{k}.up.weight"] * planted[f"sign.{k}"][:, None]
        other[f"{k}.down.weight"] = other[f"{k}.down.weight"] * planted[f"sign.{k}"]
    store(tmp_path / "a.safetensors", found.state)
    store(tmp_path / "b.safetensors", other)
    (tmp_path / "my.yaml").write_text(NETS["rotary"])
    done = rebasin(*ALIGN, "--save-permutation", "maps.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "2 signed" in done.err
    maps = load_file(tmp_path / "maps.safetensors")
    assert all(torch.equal(maps[n].flatten().double(), s.double()) for n, s in planted.items())
    folded, aligned = (load_file(tmp_path / f"{n}.safetensors") for n in ("a.folded", "b.aligned"))
    assert all(torch.allclose(aligned[n], folded[n], rtol=0, atol=1e-12) for n in folded)
    verify = ("verify", *ALIGN[1:5])
    assert rebasin(*verify, "--symmetry", "orthogonal", cwd=tmp_path).code == 0
    assert rebasin(*verify, cwd=tmp_path).code == 1


def test_maps_that_are_none_are_refused(tmp_path):
    written(tmp_path, "rotary")
    rebasin(*ALIGN, "--save-permutation", "maps.safetensors", cwd=tmp_path)
    tensors = load_file(tmp_path / "maps.safetensors")
    with safe_open(tmp_path / "maps.safetensors", framework="pt") as file:
        metadata = file.metadata()
    good = tensors["rope.0"]
    tensors["rope.0"] = torch.linalg.qr(torch.randn(2, 4, 4, dtype=torch.float64)).Q.contiguous()
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    done = rebasin("apply", "bad.safetensors", "b.safetensors", cwd=tmp_path)
    assert done.code == 3
    assert "group 'rope.0': its matrix is not one of class 'rotary'" in done.err
    tensors["rope.0"], tensors["sign.1"] = good, tensors["sign.1"] * 0.5
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    halved = rebasin("apply", "bad.safetensors", "b.safetensors", cwd=tmp_path)
    assert "group 'sign.1': its matrix is not one of class 'signed'" in halved.err
    start = rebasin("align", *ALIGN[1:5], "--start", "./maps.safetensors", cwd=tmp_path)
    assert start.code == 3
    assert "its maps rotate units" in start.err


BROKEN = """
STEPS = {steps}
seen = [0]
class Breaking(Batched):
    def forward(self, tokens):
        if torch.is_grad_enabled() and self.embed.weight.requires_grad:
            seen[0] += 1
            if seen[0] > STEPS:
                raise RuntimeError("the power fails")
        return super().forward(tokens)
def breaking():
    net = with_rotary()
    net.__class__ = Breaking
    return net
"""


@pytest.mark.slow
def test_learning_that_was_cut_off_goes_on_to_the_same_bytes(tmp_path):
    options = learning(tmp_path, "rotary")
    spec = ("--no-check", "--learn", "6", "--json")
    whole = rebasin(*ALIGN, *spec, *options, "-o", "whole.safetensors", cwd=tmp_path)
    assert whole.code == 0, whole.err
    resumed = (*ALIGN, *spec, "-o", "b.aligned.safetensors", "--resume", "state", "-f")
    model = ("--model", "user.py:breaking", *options[2:])
    (tmp_path / "user.py").write_text(USER + BROKEN.format(steps=3))
    cut = rebasin(*resumed, *model, cwd=tmp_path)
    assert cut.code != 0
    assert "the power fails" in cut.err
    other = rebasin(*resumed, *model, "--held-out", "0.3", cwd=tmp_path)
    assert "learning cannot go on from here: its held-out share was 0.2, now it is 0.3" in other.err
    reseeded = rebasin(*resumed[:2], "a.safetensors", *resumed[3:], *model, cwd=tmp_path)
    assert "it was written for another model than a.safetensors" in reseeded.err
    (tmp_path / "user.py").write_text(USER + BROKEN.format(steps=3))
    done = rebasin(*resumed, *model, cwd=tmp_path)
    assert done.code == 0, done.err
    names = ("whole", "b.aligned")
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in names)
    assert first == second
    told = [[e["learned"] for e in each.events if "learned" in e] for each in (whole, done)]
    assert told[0] == told[1]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--held-out", "0.3"), "--held-out also of --learn"),
        (("--learn", "5", "--epochs", "3"), "--check-every are of straight-through"),
        (("--learn", "5", "--held-out", "1"), "--held-out 1 is not a share"),
    ],
)
def test_options_of_other_learning_are_refused(options, message, tmp_path):
    run = learning(tmp_path, "rotary")
    done = rebasin(*ALIGN, *options, *run, cwd=tmp_path)
    assert done.code == 2
    assert message in done.err
