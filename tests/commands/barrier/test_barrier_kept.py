"""What goes wrong on the way between two models, and the points that are kept all the same."""

import json
import signal

import pytest

from tests.cli.build import load, save
from tests.cli.harness import captured, rebasin, start, until
from tests.commands.barrier.barrier_files import BARRIER, ON_DATA, points, write_user


def marks(folder):
    """Return how many times an evaluation was called."""
    return (folder / "marks").stat().st_size


@pytest.mark.parametrize(
    ("data", "message", "own"),
    [
        ("broken_loader", "user.py:broken_loader failed: OSError: no more images", "raise OSError"),
        ("numbers", "the data yields a int", ""),
        ("wide", "the model failed: RuntimeError: ", ""),
        ("elsewhere", "meta", ""),
    ],
)
def test_data_that_cannot_be_used_is_told_with_the_users_own_lines(tmp_path, data, message, own):
    write_user(tmp_path)
    done = rebasin(*BARRIER, "--data", f"user.py:{data}", cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "error: at the naive curve at alpha 0: " in done.err
    assert message in done.err
    assert own in done.err
    assert "site-packages" not in done.err


def test_a_failure_in_the_middle_keeps_what_was_done(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:third_fails", "--steps", "5", "--resume", "p.ndjson")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 3
    assert [line.split()[0] for line in done.lines if line] == [
        "naive",
        "alpha",
        "0.0000",
        "0.2500",
    ]
    assert "error: at the naive curve at alpha 0.5: user.py:third_fails failed" in done.err
    assert "RuntimeError: the disk with the images is gone" in done.err
    assert 'raise RuntimeError("the disk with the images is gone")' in done.err
    assert "not finished: 2 points" in done.err
    assert len((tmp_path / "p.ndjson").read_text().splitlines()) == 2
    # what was broken works the next time: two calls are saved, and one end is shared
    done = rebasin(*argv, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert list(points(done, "naive")) == list(points(done, "aligned")) == [0, 0.25, 0.5, 0.75, 1]
    assert marks(tmp_path) == 3 + 10 - 2 - 1


def test_a_failure_is_an_event_behind_the_points(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:third_is_nan", "--steps", "5", "--json")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code == 3
    assert [event["event"] for event in done.events] == ["result"] * 3 + ["error"]
    assert [event["complete"] for event in done.events[2:3]] == [False]
    message = done.events[-1]["message"]
    assert message.startswith("at the naive curve at alpha 0.5: user.py:third_is_nan: loss is nan")


def test_a_finished_curve_is_read_from_its_file_without_alignment(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--steps", "3", "--resume", "p.ndjson")
    first = rebasin(*argv, cwd=tmp_path)
    kept, calls = (tmp_path / "p.ndjson").read_bytes(), marks(tmp_path)
    second = rebasin(*argv, cwd=tmp_path)
    assert second.out == first.out
    assert "6 points, 0 of them judged now" in second.err
    assert "aligned to" in first.err
    assert "aligned to" not in second.err
    assert marks(tmp_path) == calls
    assert (tmp_path / "p.ndjson").read_bytes() == kept


def test_points_of_something_else_are_not_taken(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--steps", "2", "--no-align", "--resume", "p.ndjson")
    rebasin(*argv, "--evaluate", "user.py:weight", cwd=tmp_path)
    for words in (("--evaluate", "user.py:words"), ("--evaluate", "user.py:words", "--seed", "1")):
        done = rebasin(*argv, *words, cwd=tmp_path)
        assert "2 points, 2 of them judged now" in done.err
    swapped = (BARRIER[0], BARRIER[2], BARRIER[1], *argv[3:], "--evaluate", "user.py:weight")
    assert "2 points, 2 of them judged now" in rebasin(*swapped, cwd=tmp_path).err


def test_the_events_of_json_can_be_resumed_from_and_a_cut_line_is_repaired(tmp_path):
    write_user(tmp_path)
    pair = (*BARRIER[:3], *BARRIER[5:])  # without --spec, which is of no use here
    argv = (*pair, "--evaluate", "user.py:weight", "--steps", "3", "--no-align")
    text = rebasin(*argv, "--json", cwd=tmp_path).out
    lines = text.splitlines(keepends=True)
    (tmp_path / "p.ndjson").write_text("".join(lines[:2]) + lines[2][:50])
    done = rebasin(*argv, "--resume", "p.ndjson", cwd=tmp_path)
    assert "3 points, 1 of them judged now" in done.err
    assert "note: the last line of p.ndjson was cut off: its point is judged again" in done.err
    kept = [json.loads(line) for line in (tmp_path / "p.ndjson").read_text().splitlines()]
    assert [record["alpha"] for record in kept] == [0, 0.5, 1]


@pytest.mark.parametrize(
    "content",
    [b"alpha,loss\n0,1\n", b"\x80\x02}q\x00", b"{}\n", b'"a"', b'{"schema":"rebasin/1",,}\n'],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, content):
    write_user(tmp_path)
    (tmp_path / "p.ndjson").write_bytes(content)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--steps", "2", "--resume", "p.ndjson")
    done = rebasin(*argv, cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "error: p.ndjson:1: not a point of a curve" in done.err
    assert (tmp_path / "p.ndjson").read_bytes() == content


def test_being_stopped_keeps_what_was_done(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:slow", "--steps", "5", "--resume", "p.ndjson")
    with captured() as files:
        running = start(*argv, cwd=tmp_path, streams=[file.fileno() for file in files])
        until(lambda: (tmp_path / "marks").exists() and marks(tmp_path) >= 3)
        running.send(signal.SIGINT)
        assert running.wait() == 130
        files[1].seek(0)
        shown = files[1].read().decode().splitlines()
    assert [line.split()[0] for line in shown if line] == ["naive", "alpha", "0.0000", "0.2500"]
    assert len((tmp_path / "p.ndjson").read_text().splitlines()) == 2


def test_a_spec_that_changes_the_function_is_noticed_at_the_second_model(tmp_path):
    write_user(tmp_path)
    fixed = "".join(f"  {k}.bias: [~]\n" for k in (0, 2, 4, 6))
    (tmp_path / "wrong.yaml").write_text(
        "rebasin: 1\nname: wrong\ntensors:\n  0.weight: [a, ~]\n  2.weight: [~, a]\n"
        f"  4.weight: [~]\n  6.weight: [~]\n{fixed}"
    )
    argv = [word.replace("mlp", "wrong.yaml") for word in ON_DATA]
    done = rebasin(*argv, "--steps", "2", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "note: the loss of the second model was" in done.err
    assert "once aligned: the spec is wrong, or it is not the same each time" in done.err
    right = rebasin(*ON_DATA, "--steps", "2", cwd=tmp_path)
    assert "note:" not in right.err


def test_weights_that_are_not_finite_are_told_by_name(tmp_path):
    write_user(tmp_path)
    state = load(tmp_path / "b.safetensors")
    state["4.bias"][0] = float("nan")
    save(tmp_path / "b.safetensors", state)
    done = rebasin(*ON_DATA, "--no-align", cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "error: b.safetensors: tensor '4.bias' holds NaN or infinity" in done.err
