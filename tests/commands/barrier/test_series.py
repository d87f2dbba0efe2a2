"""`rebasin barrier --series`: many pairs at once, against what tells them apart."""

import json
from itertools import chain
from pathlib import Path

import pytest

from rebasin_cli.commands.barrier.command import BarrierRequest
from rebasin_cli.commands.barrier.series.plan import plan_series
from rebasin_cli.errors import UsageError
from tests.cli.build import load, mlp, near, save, shuffled
from tests.cli.harness import rebasin
from tests.commands.barrier.barrier_files import write_user

CODE = ("--spec", "mlp", "--model", "user.py:net")
ON_DATA = (*CODE, "--data", "user.py:batches")
SERIES = ("barrier", "--series")


def write_runs(folder, epochs=(1, 2, 10)):
    """Write runs a and b of epochs, the later the nearer, in other orders in each epoch."""
    write_user(folder)
    first = load(folder / "a.safetensors")
    for epoch in epochs:
        moved = near(shuffled(first, 3), epoch, noise=0.4 / epoch)
        save(folder / "run-a" / f"epoch-{epoch}.safetensors", near(first, 9, noise=0.2 / epoch))
        save(folder / "run-b" / f"epoch-{epoch:02}.safetensors", moved)
    return [
        *(f"run-a/epoch-{epoch}.safetensors" for epoch in sorted(epochs, key=str)),
        *(f"run-b/epoch-{epoch:02}.safetensors" for epoch in epochs),
    ]


def whole(done):
    return next(event for event in done.events if "series" in event)


def heights(event, curve="naive", score="loss"):
    """Return the barriers of a curve by place, of the event of a series."""
    found = next(e for e in event["series"] if (e["curve"], e["score"]) == (curve, score))
    return {point["place"]: point["height"] for point in found["chord"]}


def test_a_series_says_of_each_pair_what_barrier_says_of_it_alone(tmp_path):
    models = write_runs(tmp_path)
    done = rebasin(*SERIES, *models, *ON_DATA, "--steps", "3", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    told = [event for event in done.events if "place" in event]
    assert [(e["axis"], e["place"], e["elements"]) for e in told] == [
        ("epoch", place, 303) for place in (1, 2, 10)
    ]
    assert [e["models"][1] for e in told] == models[3:]
    alone = rebasin("barrier", *told[1]["models"], *ON_DATA, "--steps", "3", "--json", cwd=tmp_path)
    expected = next(event for event in alone.events if "barriers" in event)
    assert told[1]["barriers"] == expected["barriers"]
    for curve in ("naive", "aligned"):
        of_pairs = {
            e["place"]: b["chord"]["height"]
            for e in told
            for b in e["barriers"]
            if (b["curve"], b["score"]) == (curve, "loss")
        }
        assert heights(whole(done), curve) == of_pairs
    assert heights(whole(done))[10] > heights(whole(done), "aligned")[10]
    assert (whole(done)["pair_by"], whole(done)["align_by"]) == ("number", "each")


def test_people_get_a_row_for_each_pair_and_a_line_when_it_is_judged(tmp_path):
    models = write_runs(tmp_path, (1, 2))
    done = rebasin(*SERIES, *models, *ON_DATA, "--steps", "2", "--plot", "s.svg", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.lines[0].split() == ["barrier", "of", "loss,", "loss,", "accuracy,", "accuracy,"]
    assert done.lines[1].split() == ["epoch", "naive", "aligned", "naive", "aligned"]
    assert [line.split() for line in done.lines[2:]] == [[n, *["none"] * 4] for n in "12"]
    told = done.err.splitlines()
    assert told[0].startswith(f"epoch 1, {models[0]} and {models[2]}: barrier of loss, naive none")
    assert told[-2].startswith("2 pairs by number, 8 points, 6 of them judged now, ")
    assert told[-1] == "drawn: s.svg"
    assert "aligned to" not in done.err
    loud = rebasin(*SERIES, *models, *ON_DATA, "--steps", "2", "-v", cwd=tmp_path)
    assert loud.err.count("aligned to") == 2


def test_all_pairs_can_be_aligned_as_the_last_is(tmp_path):
    models = write_runs(tmp_path, (2, 10))
    # the first pair alone would be aligned by other orders: its second model is another network
    strange = "run-b/epoch-02.safetensors"
    save(tmp_path / strange, near(shuffled(mlp(5), 6), 7))
    options = (*ON_DATA, "--at", "0.5", "--json")
    kept = (*options, "--resume", "p.ndjson")  # points of the one are none of the other
    last = rebasin(*SERIES, *models, *kept, "--align-by", "last", cwd=tmp_path)
    each = rebasin(*SERIES, *models, *kept, cwd=tmp_path)
    assert last.code == each.code == 0, last.err
    assert whole(last)["align_by"] == "last"
    assert last.err.count("aligned to") == 1
    assert middle(last, 1) == middle(each, 1)
    assert middle(last, 0) != middle(each, 0)
    # the orders are those that align finds for the last pair
    ends = ("run-a/epoch-10.safetensors", "run-b/epoch-10.safetensors")
    argv = ("align", *ends, "--spec", "mlp", "--save-permutation", "p.safetensors")
    assert rebasin(*argv, cwd=tmp_path).code == 0
    moved = rebasin("apply", "p.safetensors", strange, "-o", "m.safetensors", cwd=tmp_path)
    assert moved.code == 0, moved.err
    pair = ("run-a/epoch-2.safetensors", "m.safetensors")
    by_hand = rebasin("barrier", *pair, *options, "--no-align", cwd=tmp_path)
    assert middle(by_hand, 0, "naive") == pytest.approx(middle(last, 0), rel=1e-5)


def middle(done, number, curve="aligned"):
    """Return the loss halfway between the models of a pair."""
    points = [e for e in done.events if e.get("curve") == curve and e["alpha"] == 0.5]
    return points[number]["scores"]["loss"]


def test_models_of_several_widths_are_built_each_by_its_number(tmp_path):
    write_user(tmp_path)
    with (tmp_path / "user.py").open("a") as code:
        code.write(
            "\n\ndef sized(width):\n"
            "    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))\n"
        )
    for width in (16, 8):
        state = mlp(1, (6, width, 4))
        save(tmp_path / f"w{width}" / "s0.safetensors", state)
        save(tmp_path / f"w{width}" / "s1.safetensors", near(shuffled(state), 2))
    files = [f"w{width}/s{seed}.safetensors" for width in (16, 8) for seed in (0, 1)]
    sized = ("--model", "user.py:sized", *ON_DATA[:2], *ON_DATA[4:], "--steps", "2")
    argv = (*SERIES, *files, "--pair-by", "folder", *sized)
    done = rebasin(*argv, "--model-args", '{"width": "{number}"}', "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    told = [(e["axis"], e["place"], e["elements"]) for e in done.events if "place" in e]
    assert told == [("w", 8, 92), ("w", 16, 180)]
    words = ["order" if word == "folder" else word for word in argv]
    done = rebasin(*words, "--model-args", '{"width": "{number}"}', cwd=tmp_path)
    assert done.code == 2
    assert "--model-args has {number}, and the names of the models have no number" in done.err


def test_a_series_that_broke_off_is_shown_as_far_as_it_came_and_goes_on(tmp_path):
    models = write_runs(tmp_path, (1, 2))
    failing = ("--evaluate", "user.py:third_fails", "--steps", "2", "--no-align")
    argv = (*SERIES, *models, *CODE, *failing, "--resume", "p.ndjson", "--plot", "s.svg")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 3
    assert "error: at the naive curve at alpha 0: user.py:third_fails failed" in done.err
    assert "not finished: 1 pair by number, 2 points" in done.err
    assert [line.split() for line in done.lines[2:]] == [["1", "none"]]
    assert not (tmp_path / "s.svg").exists()
    done = rebasin(*argv, cwd=tmp_path)  # the third call failed, and those after it do not
    assert done.code == 0, done.err
    assert "2 pairs by number, 4 points, 2 of them judged now" in done.err
    assert [line.split()[0] for line in done.lines[2:]] == ["1", "2"]
    assert (tmp_path / "s.svg").exists()
    assert len((tmp_path / "p.ndjson").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("asked", "align_by", "message"),
    [
        ({"plane": True}, "each", "--plane does not go with --series"),
        ({"diagnose": True}, "each", "--diagnose does not go with --series"),
        ({}, "all", "--align-by all: no such way to align a series"),
        ({"align": False}, "last", "--align-by says how models are aligned, and --no-align does"),
        (
            {"symmetry": "orthogonal"},
            "last",
            "--align-by last carries permutations over, not the maps of --symmetry orthogonal",
        ),
    ],
)
def test_what_does_not_go_with_a_series_is_refused(asked, align_by, message):
    models = [Path("a/1.pt"), Path("b/1.pt")]
    with pytest.raises(UsageError) as caught:
        plan_series(BarrierRequest(models, **asked, align_by=align_by))
    assert message in str(caught.value)


def test_orders_are_not_carried_over_to_models_of_another_size(tmp_path):
    write_user(tmp_path)
    for seed in (0, 1):
        save(tmp_path / f"w8-{seed}.safetensors", mlp(seed, (6, 8, 4)))
        save(tmp_path / f"w9-{seed}.safetensors", mlp(seed, (6, 9, 4)))
    names = [f"w{width}-{seed}.safetensors" for seed in (0, 1) for width in (8, 9)]
    (tmp_path / "n.py").write_text(
        "from torch import nn\n\n\ndef net(w):\n"
        "    return nn.Sequential(nn.Linear(6, w), nn.ReLU(), nn.Linear(w, 4))\n"
    )
    code = ("--model", "n.py:net", "--model-args", '{"w": "{number}"}', *ON_DATA[:2], *ON_DATA[4:])
    done = rebasin(*SERIES, *names, *code, "--align-by", "last", cwd=tmp_path)
    assert done.code == 2
    assert "the last pair, w9-0.safetensors and its partner, has other tensors than" in done.err
    assert "hint: --align-by each" in done.err


def test_options_of_a_series_need_one_and_many_models_hint_at_it(tmp_path):
    models = write_runs(tmp_path, (1, 2))
    done = rebasin("barrier", *models, *ON_DATA, cwd=tmp_path)
    assert done.code == 2
    assert "barrier takes 2 models, not 4" in done.err
    assert "hint: --series takes many pairs of models" in done.err
    for option in (("--pair-by", "order"), ("--align-by", "last")):
        done = rebasin("barrier", *models[:2], *ON_DATA, *option, cwd=tmp_path)
        assert f"error: {option[0]} is for many pairs of models" in done.err


def test_the_plan_has_all_pairs(tmp_path):
    models = write_runs(tmp_path, (1, 2))
    done = rebasin(*SERIES, *models, *ON_DATA, "--dry-run", "--plot", "s.png", cwd=tmp_path)
    plan = json.loads(done.out)
    assert [pair["place"] for pair in plan["series"]] == [1, 2]
    assert [plan[key] for key in ("axis", "pair_by", "align_by", "plot")] == [
        "epoch",
        "number",
        "each",
        "s.png",
    ]
    assert plan["memory"] == max(pair["memory"] for pair in plan["series"])
    paths = chain.from_iterable(pair["inputs"] for pair in plan["series"])
    assert {each["path"] for each in paths} == set(models)
