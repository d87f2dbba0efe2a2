"""`rebasin barrier`: curves between models, kept point by point, and what goes wrong on the way."""

import os
import re
from math import hypot

import pytest
import torch

from tests.cli.build import load
from tests.cli.harness import image, rebasin
from tests.cli.test_terminal import at_a_terminal
from tests.commands.barrier.barrier_files import (
    BARRIER,
    ON_DATA,
    points,
    write_normed,
    write_third,
    write_user,
)


def the_whole(done):
    return next(event for event in done.events if "barriers" in event)


def test_a_planted_order_has_a_barrier_that_alignment_removes(tmp_path):
    write_user(tmp_path)
    done = rebasin(*ON_DATA, "--steps", "5", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    naive, aligned = points(done, "naive"), points(done, "aligned")
    assert list(naive) == list(aligned) == [0, 0.25, 0.5, 0.75, 1]
    assert naive[0] == aligned[0]
    assert naive[0]["accuracy"] == 1
    assert aligned[1]["loss"] == pytest.approx(naive[1]["loss"], rel=1e-5)
    before, after = [b for b in the_whole(done)["barriers"] if b["score"] == "loss"]
    assert (before["curve"], after["curve"]) == ("naive", "aligned")
    top = before["chord"]["alpha"]
    chord = (1 - top) * naive[0]["loss"] + top * naive[1]["loss"]
    assert before["chord"]["height"] == pytest.approx(naive[top]["loss"] - chord)
    middle = (naive[0]["loss"] + naive[1]["loss"]) / 2
    highest = max(scores["loss"] for scores in naive.values())
    assert before["mean"]["height"] == pytest.approx(highest - middle)
    assert after["chord"]["removed"] > 0.9
    assert after["chord"]["removed"] == 1 - after["chord"]["height"] / before["chord"]["height"]
    assert before["chord"]["removed"] is None


def test_a_point_is_an_event_with_all_that_its_scores_depend_on(tmp_path):
    write_user(tmp_path)
    done = rebasin(*ON_DATA, "--at", "0.25", "--batches", "1", "--json", cwd=tmp_path)
    first = done.events[1]
    assert (first["schema"], first["event"], first["command"]) == (
        "rebasin/1",
        "result",
        "barrier",
    )
    assert (first["curve"], first["alpha"], first["weights"]) == ("naive", 0.25, [0.75, 0.25])
    assert set(first["scores"]) == {"loss", "accuracy"}
    assert first["seconds"] > 0
    of = first["of"]
    assert (of["data"], of["evaluate"], of["batches"]) == ("user.py:batches", None, 1)
    assert [len(digest) for digest in of["models"]] == [64, 64]


def test_people_get_one_table_and_the_barriers(tmp_path):
    write_user(tmp_path)
    done = rebasin(*ON_DATA, "--steps", "3", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines[0].split() == ["naive", "naive", "aligned", "aligned"]
    assert done.lines[1].split() == ["alpha", "loss", "accuracy", "loss", "accuracy"]
    assert [line.split()[0] for line in done.lines[2:5]] == ["0.0000", "0.5000", "1.0000"]
    assert done.lines[7].split()[:5] == ["barrier", "the", "chord", "removed", "of"]
    assert re.match(r"loss, naive +[\d.]+ at 0.5 +[\d.]+ at 0.5$", done.lines[8])
    assert re.match(r"loss, aligned +none +100.0 % +[\d.]+ at 1 +[\d.]+ %$", done.lines[9])
    assert done.lines[10].startswith("accuracy, naive")
    assert "b.safetensors aligned to a.safetensors" in done.err
    assert "6 points, 5 of them judged now" in done.err
    assert re.match(r"ensemble +[\d.]+ +[\d.]+$", done.lines[-1])


def test_places_are_put_in_order_with_the_ends_and_may_lie_outside(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--at", "1.5,0.25", "--json", "--no-align")
    naive = points(rebasin(*argv, cwd=tmp_path), "naive")
    assert list(naive) == [0, 0.25, 1, 1.5]
    a, b = (float(load(tmp_path / f"{n}.safetensors")["0.weight"].sum()) for n in "ab")
    for alpha, scores in naive.items():
        assert scores["loss"] == pytest.approx((1 - alpha) * a + alpha * b, abs=1e-4)


def test_scores_without_a_direction_are_shown_and_have_no_barrier(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:words", "--steps", "2", "--no-align", "--json")
    done = rebasin(*argv, cwd=tmp_path)
    assert points(done, "naive")[0] == {"loss": 2.0, "top5_accuracy": 0.5, "perplexity": 7.0}
    assert [b["score"] for b in the_whole(done)["barriers"]] == ["loss", "top5_accuracy"]
    assert [b["chord"]["height"] for b in the_whole(done)["barriers"]] == [0, 0]


def test_models_of_one_basin_are_not_aligned_again(tmp_path):
    write_user(tmp_path)
    rebasin("align", "a.safetensors", "b.safetensors", "--spec", "mlp", cwd=tmp_path)
    argv = [word.replace("b.safe", "b.aligned.safe") for word in ON_DATA]
    done = rebasin(*argv, "--steps", "2", "--json", cwd=tmp_path)
    whole = the_whole(done)
    assert whole["curves"] == ["naive"]
    assert whole["notes"] == [
        "their provenance says that the models lie in one basin: not aligned again"
    ]


def test_the_spec_is_traced_from_the_model_if_none_is_named(tmp_path):
    write_user(tmp_path)
    argv = [word for word in ON_DATA if word not in ("--spec", "mlp")]
    done = rebasin(*argv, "--steps", "2", "--no-cache", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "spec traced from user.py:net" in done.err


def test_batchnorm_calls_for_its_statistics_and_reset_gives_them(tmp_path):
    write_user(tmp_path)
    write_normed(tmp_path)
    models = ("n.safetensors", "m.safetensors", "--model", "user.py:normed")
    argv = ("barrier", *models, "--data", "user.py:batches", "--steps", "3")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "measured anew: --renormalize reset" in done.err
    done = rebasin(*argv, "--renormalize", "reset", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert the_whole(done)["hints"] == []
    plain, corrected = points(done, "aligned"), points(done, "aligned, reset")
    assert corrected[0] == plain[0]
    assert corrected[1] == plain[1]
    assert corrected[0.5] != plain[0.5]


def test_without_batchnorm_there_is_nothing_to_reset(tmp_path):
    write_user(tmp_path)
    done = rebasin(*ON_DATA, "--renormalize", "reset", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "the model has no BatchNorm whose statistics could be reset" in done.err
    assert "hint: --renormalize rescale does without BatchNorm" in done.err


def test_dry_run_prints_the_plan_and_judges_nothing(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--plot", "c.svg", "--steps", "3", "-n")
    done = rebasin(*argv, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    plan = done.events[0]
    assert (plan["points"], plan["plot"], plan["align"]) == ([0, 0.5, 1], "c.svg", True)
    assert (plan["model"], plan["evaluate"]) == ("user.py:net", "user.py:weight")
    assert not (tmp_path / "marks").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "1"), "--steps 1: from 2 to 100,000 are possible"),
        (("--steps", "3", "--at", "0.5"), "--steps and --at exclude each other"),
        (("--at", "nan"), "--at nan: a place is a finite number up to 1e+06"),
        (("--plane",), "barrier takes 3 models, not 2"),
        (("--margin", "0.1"), "--margin is around the models of a --plane"),
        (("--plot", "x.pdf"), "--plot x.pdf: no picture has this ending"),
        (("--plot", "a.png"), "a.png exists"),
        (("--resume", "a.safetensors"), "--resume a.safetensors is one of the models"),
        (("--resume", "none/x.ndjson"), "--resume none/x.ndjson: no file can be there"),
        (("--renormalize", "rest"), "did you mean 'reset'?"),
        (("--renormalize", "calibrate"), "no value of --renormalize is called 'calibrate'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_meant_is_refused_before_any_work(tmp_path, words, message):
    write_user(tmp_path)
    (tmp_path / "a.png").touch()
    before = image(tmp_path)
    done = rebasin(*BARRIER, "--evaluate", "user.py:weight", *words, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert {name: facts for name, facts in image(tmp_path).items() if name in before} == before
    assert not (tmp_path / "marks").exists()


def test_without_data_or_model_there_is_nothing_to_judge(tmp_path):
    write_user(tmp_path)
    done = rebasin(*BARRIER, cwd=tmp_path)
    assert done.code == 2
    assert "nothing says how good a model is" in done.err
    done = rebasin(*BARRIER[:-2], "--data", "user.py:batches", cwd=tmp_path)
    assert done.code == 2
    assert "a model has to be run" in done.err


def test_a_terminal_shows_how_far_it_is(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--steps", "3")
    code, shown, out, _ = at_a_terminal(*argv, cwd=tmp_path, numbers=(2,))
    assert code == 0
    assert "judging the naive curve" in shown
    assert "\x1b" not in out
    assert out.splitlines()[0].split() == ["naive", "aligned"]


def test_results_leave_by_a_pipe_that_closes_early(tmp_path):
    write_user(tmp_path)
    ours, theirs = os.pipe()
    os.close(ours)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--steps", "3", "--json")
    try:
        done = rebasin(*argv, cwd=tmp_path, stdout=theirs)
    finally:
        os.close(theirs)
    assert done.code == 141
    assert "Traceback" not in done.err


THREE = ("a.safetensors", "b.safetensors", "c.safetensors", "--plane", "--spec", "mlp")
PLANE = ("barrier", *THREE, "--model", "user.py:net", "--data", "user.py:batches")


def test_the_plane_has_the_three_models_and_a_grid_around_them(tmp_path):
    write_user(tmp_path)
    write_third(tmp_path)
    done = rebasin(*PLANE, "--steps", "4", "--json", "--resume", "p.ndjson", cwd=tmp_path)
    assert done.code == 0, done.err
    found = [event for event in done.events if event.get("curve") == "plane"]
    assert len(found) == 3 + 4 * 4
    assert [event["weights"] for event in found[:3]] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert found[0]["scores"]["accuracy"] == 1
    whole = next(event for event in done.events if "corners" in event)
    assert [[e["x"], e["y"]] for e in found[:3]] == whole["corners"]
    lowest = min(event["scores"]["loss"] for event in found)
    assert whole["best"]["loss"]["value"] == lowest
    again = rebasin(*PLANE, "--steps", "4", "--resume", "p.ndjson", cwd=tmp_path)
    assert "19 points, 0 of them judged now" in again.err
    assert "lowest loss" in again.err
    assert again.lines[0].split() == ["x", "y", "A", "B", "C", "loss", "accuracy"]


def test_alignment_brings_the_corners_of_the_plane_together(tmp_path):
    write_user(tmp_path)
    write_third(tmp_path)
    argv = (*PLANE, "--steps", "2", "--margin", "0", "--json")
    aligned, apart = (
        next(
            event["corners"]
            for event in rebasin(*argv, *more, cwd=tmp_path).events[3:]
            if "corners" in event
        )
        for more in ((), ("--no-align",))
    )
    assert aligned[0] == apart[0] == [0, 0]
    assert aligned[1][0] < 0.5 * apart[1][0]
    assert hypot(*aligned[2]) < 0.5 * hypot(*apart[2])


def test_three_models_need_a_plane_and_a_plane_three_different_ones(tmp_path):
    write_user(tmp_path)
    write_third(tmp_path)
    done = rebasin(*(word for word in PLANE if word != "--plane"), cwd=tmp_path)
    assert done.code == 2
    assert "barrier takes 2 models, not 3\nhint: --plane takes three models" in done.err
    flat = [word.replace("c.safe", "b.safe") for word in PLANE]
    done = rebasin(*flat, cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "the three models lie on a line, so there is no plane through them" in done.err


def test_the_ensemble_of_the_two_models_is_judged_once_and_kept(tmp_path):
    write_user(tmp_path)
    argv = (*ON_DATA, "--steps", "2", "--resume", "p.ndjson", "--json")
    whole = the_whole(rebasin(*argv, cwd=tmp_path))
    space: dict = {"__file__": str(tmp_path / "user.py")}
    exec((tmp_path / "user.py").read_text(), space)
    models = [space["net"](), space["net"]()]
    for model, name in zip(models, "ab", strict=True):
        model.load_state_dict(load(tmp_path / f"{name}.safetensors"))
    inputs, targets = (torch.cat(parts) for parts in zip(*space["batches"](), strict=True))
    with torch.no_grad():
        mean = sum(model(inputs).double().softmax(-1) for model in models) / 2
    losses = -mean[torch.arange(len(targets)), targets].log()
    assert whole["ensemble"]["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert whole["ensemble"]["accuracy"] == float((mean.argmax(-1) == targets).double().mean())
    assert "no_ensemble" not in whole
    kept = (tmp_path / "p.ndjson").read_text()
    changed = kept.replace(str(whole["ensemble"]["loss"]), "0.125")
    assert changed != kept
    (tmp_path / "p.ndjson").write_text(changed)
    assert the_whole(rebasin(*argv, cwd=tmp_path))["ensemble"]["loss"] == 0.125


def test_a_judge_of_one_model_has_no_ensemble(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:words", "--steps", "2", "--no-align")
    whole = the_whole(rebasin(*argv, "--json", cwd=tmp_path))
    assert whole["ensemble"] is None
    assert whole["no_ensemble"].startswith("--evaluate judges one model")
    assert "no ensemble: --evaluate judges one model" in rebasin(*argv, cwd=tmp_path).err
