"""`barrier --symmetry orthogonal`: the way from a folded model to another moved next to it."""

import json
from pathlib import Path

import pytest
import torch

from tests.cli.harness import rebasin
from tests.commands.barrier.barrier_files import points
from tests.symmetry.rotated_files import model_of, store, write_copies
from tests.symmetry.small import ONE_QUICK, case

SHARED_OPTIONS = ("--spec", "my.yaml", "--data", "user.py:pairs", "--steps", "3")
ORTHOGONAL = ("--symmetry", "orthogonal")


def barrier(kind, *models):
    return ("barrier", *models, *SHARED_OPTIONS, "--model", model_of(kind))


PAIR = ("a.safetensors", "b.safetensors")


def losses(done, curve):
    return {alpha: scores["loss"] for alpha, scores in points(done, curve).items()}


def results(done):
    return [event for event in done.events if event["event"] == "result"]


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_there_is_no_barrier_to_a_rotated_copy(kind, tmp_path):
    write_copies(tmp_path, kind)
    done = rebasin(*barrier(kind, *PAIR), *ORTHOGONAL, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    naive, aligned = (losses(done, curve) for curve in ("naive", "aligned"))
    assert abs(aligned[0.5] - naive[0]) < 0.01 < abs(naive[0.5] - naive[0])
    for end in (0, 1):
        assert aligned[end] == pytest.approx(naive[end], rel=1e-4)
    told = results(done)
    assert [event["norms"] for event in told if "norms" in event] == [5]
    assert [event["symmetry"] for event in told if "symmetry" in event] == ["orthogonal"]
    assert told[-1]["notes"] == []


@pytest.mark.slow
def test_the_folded_end_is_judged_by_itself(tmp_path):
    """A head that stays tied changes outputs a little: the first model moves too."""
    write_copies(tmp_path, "layer norm")
    for seed, name in enumerate(PAIR):
        state = case("layer norm", seed, tied=True).state
        gain = 1 + (state["norm.weight"] - 1) / 20
        store(tmp_path / name, {**state, "norm.weight": gain})
    done = rebasin(*barrier("tied head", *PAIR), *ORTHOGONAL, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    naive, aligned = (losses(done, curve) for curve in ("naive", "aligned"))
    assert 1e-3 < abs(aligned[0] - naive[0]) < 0.1
    assert results(done)[-1]["notes"] == []  # the spec is not wrong
    assert "the head stays tied to the embedding" in done.err


@pytest.mark.slow
def test_points_are_kept_and_those_of_permutations_are_others(tmp_path):
    write_copies(tmp_path, "rotary")
    argv = (*barrier("rotary", *PAIR), "--resume", "p.ndjson")
    permuted = rebasin(*argv, "--json", cwd=tmp_path)
    first = rebasin(*argv, *ORTHOGONAL, "--json", cwd=tmp_path)
    assert losses(first, "aligned")[0.5] != losses(permuted, "aligned")[0.5]
    again = rebasin(*argv, *ORTHOGONAL, cwd=tmp_path)
    assert "6 points, 0 of them judged now" in again.err
    assert "aligned to" not in again.err


@pytest.mark.slow
def test_three_models_span_a_plane(tmp_path):
    write_copies(tmp_path, "rotary")
    models = (*PAIR, "c.safetensors")
    argv = (*barrier("rotary", *models), "--plane", *ORTHOGONAL, "--json")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 0, done.err
    found = [e["scores"]["loss"] for e in done.events if e.get("curve") == "plane"]
    assert len(found) == 3 + 9
    assert max(found) - min(found) < 0.05


def test_folded_models_of_one_basin_are_not_aligned_again(tmp_path):
    write_copies(tmp_path, "rotary")
    pair = rebasin("align", *PAIR, "--spec", "my.yaml", *ORTHOGONAL, cwd=tmp_path).lines
    done = rebasin(*barrier("rotary", *pair), *ORTHOGONAL, cwd=tmp_path)
    assert "the models lie in one basin: not aligned again" in done.err


def test_a_plan_says_by_which_maps(tmp_path):
    write_copies(tmp_path, "rotary")
    plan = json.loads(rebasin(*barrier("rotary", *PAIR), *ORTHOGONAL, "-n", cwd=tmp_path).out)
    assert (plan["symmetry"], plan["maps"]["stream"]) == ("orthogonal", "orthogonal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--no-align",), "--symmetry orthogonal aligns the models, and --no-align does not"),
        (("--renormalize", "rescale"), "--renormalize does not go with --symmetry orthogonal"),
        (("--method", "sinkhorn"), "--symmetry orthogonal has no method 'sinkhorn'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message, tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin(*barrier("rotary", *PAIR), *ORTHOGONAL, *options, cwd=tmp_path)
    assert (done.code, done.out) == (2, ""), done.err
    assert message in done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_model_may_be_run_elsewhere_than_maps_are_found(tmp_path):
    write_copies(tmp_path, "rotary")
    done = rebasin(*barrier("rotary", *PAIR), *ORTHOGONAL, "--device", "cuda", cwd=tmp_path)
    assert done.code == 4
    assert "device 'cuda' is not on this machine" in done.err


SHARED = Path(__file__).parents[4] / "shared" / "checkpoints"
IMAGES = f"""
import sys
sys.path.insert(0, {str(SHARED)!r})
import evaluate
from models import ViT

def images():
    x, y = evaluate.test_set("vit_small")
    for first in range(0, len(x), 500):
        yield x[first : first + 500], y[first : first + 500]
"""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")
def test_rotations_take_away_what_permutations_leave_of_a_trained_vit(tmp_path):
    (tmp_path / "vit.py").write_text(IMAGES)
    pair = [str(SHARED / f"vit_small_s{seed}.safetensors") for seed in (0, 1)]
    run = ("--model", "vit.py:ViT", "--data", "vit.py:images", "--steps", "3", "--json")
    argv = ("barrier", *pair, "--spec", "preln-vit", "--set", "heads=4", *run)
    heights = []
    for symmetry in ("permutation", "orthogonal"):
        done = rebasin(*argv, "--symmetry", symmetry, cwd=tmp_path)
        assert done.code == 0, done.err
        found = {
            (b["curve"], b["score"]): b["chord"]["height"] for b in results(done)[-1]["barriers"]
        }
        heights.append(found["aligned", "loss"])
    permuted, rotated = heights
    assert rotated < 0.45
    assert permuted > 0.8
