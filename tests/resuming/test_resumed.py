"""`--resume` of lerp, align and merge: a run that was killed goes on to the same bytes."""

import json
import shutil
import signal
import sys

import pytest

from tests.cli.build import mlp, near, pair, save, shuffled
from tests.cli.harness import captured, rebasin, start, until
from tests.symmetry.rotated_files import rotated, store
from tests.symmetry.small import NETS, case

LERP = ("lerp", "a.safetensors", "b.safetensors", "--steps", "3", "--resume", "list")
ALIGN = ("align", *(f"{n}.safetensors" for n in "abcd"), "--spec", "mlp", "--resume", "list")
MERGE = ("merge", *(f"{n}.safetensors" for n in "abcd"), "--spec", "mlp", "--resume", "list")
WIDTHS = (64, 256, 256, 10)
# A program for --exec that kills what has started it at one point, once.
KILLER = """
import os, sys
if sys.argv[1] == "0.5" and os.path.exists("armed"):
    os.remove("armed")
    os.kill(os.getppid(), 9)
print(sys.argv[1])
"""


def several(folder):
    """Write four models of one basin, their units in different orders."""
    state = mlp(1, WIDTHS)
    for seed, name in enumerate("abcd"):
        model = near(shuffled(state) if seed else state, seed)
        save(folder / f"{name}.safetensors", model)


def events(folder, kind):
    """Return the whole events of a kind in the list."""
    path = folder / "list"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in found if event["event"] == kind]


def killed(folder, *argv, after):
    """Run a command and kill it as soon as so many events of a kind are in its list."""
    kind, count = after
    with captured() as files:
        running = start(*argv, cwd=folder, streams=[file.fileno() for file in files])
        until(lambda: len(events(folder, kind)) >= count)
        running.send(signal.SIGKILL)
        running.wait()


def inodes(folder, pattern):
    return {path.name: path.stat().st_ino for path in folder.rglob(pattern)}


def contents(folder, pattern):
    return {path.name: path.read_bytes() for path in folder.rglob(pattern)}


def uninterrupted(folder, pattern, *argv):
    """Run a command without a list, on copies of all files, and return what it wrote."""
    copy, place = folder.with_name(f"{folder.name}-copy"), argv.index("--resume")
    shutil.copytree(folder, copy)
    done = rebasin(*argv[:place], *argv[place + 2 :], cwd=copy)
    assert done.code == 0, done.err
    return contents(copy, pattern)


def test_a_line_goes_on_after_the_points_that_were_finished(tmp_path):
    pair(tmp_path)
    (tmp_path / "eval.py").write_text(KILLER)
    argv = (*LERP, "--exec", f"{sys.executable} -S eval.py {{alpha}}", "--keep")
    expected = uninterrupted(tmp_path, "alpha*", *argv)
    (tmp_path / "armed").touch()
    assert rebasin(*argv, cwd=tmp_path).code == -signal.SIGKILL
    before = inodes(tmp_path, "alpha*")
    assert len(before) == 2  # the second was written, and not evaluated
    done = rebasin(*argv, "--json", cwd=tmp_path)
    assert [event.get("reused", False) for event in done.events[:-1]] == [True, False, False]
    assert [event["exec"] for event in done.events[:-1]] == [0.25, 0.5, 0.75]
    assert contents(tmp_path, "alpha*") == expected
    kept = [name for name, inode in inodes(tmp_path, "alpha*").items() if inode == before.get(name)]
    assert kept == ["alpha-0.250000.safetensors"]


def test_points_that_are_not_kept_are_evaluated_once(tmp_path):
    pair(tmp_path)
    (tmp_path / "eval.py").write_text(KILLER)
    argv = (*LERP, "--exec", f"{sys.executable} -S eval.py {{alpha}}")
    (tmp_path / "armed").touch()
    assert rebasin(*argv, cwd=tmp_path).code == -signal.SIGKILL
    done = rebasin(*argv, cwd=tmp_path)
    assert done.lines == ["0.250000\t0.25", "0.500000\t0.5", "0.750000\t0.75"]
    assert "alpha-0.250000.safetensors was finished by an earlier run" in done.err
    assert not any((tmp_path / "lerp").iterdir())


def test_alignments_go_on_after_the_models_that_were_finished(tmp_path):
    several(tmp_path)
    argv = (*ALIGN, "--save-permutation", "saved")
    expected = uninterrupted(tmp_path, "*.aligned.*", *argv)
    killed(tmp_path, *argv, after=("finished", 1))
    before = inodes(tmp_path, "b.*aligned*") | inodes(tmp_path / "saved", "b.*")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.lines == ["a.safetensors", *(f"{n}.aligned.safetensors" for n in "bcd")]
    assert contents(tmp_path, "*.aligned.*") == expected
    after = inodes(tmp_path, "b.*aligned*") | inodes(tmp_path / "saved", "b.*")
    assert len(before) == 2
    assert before == after


def test_the_folded_reference_of_orthogonal_maps_is_a_result_too(tmp_path):
    found = case("rotary")
    store(tmp_path / "a.safetensors", found.state)
    store(tmp_path / "b.safetensors", rotated(found, seed=1, noise=0.001))
    (tmp_path / "my.yaml").write_text(NETS["rotary"])
    argv = ("align", "a.safetensors", "b.safetensors", "--spec", "my.yaml", "--resume", "list")
    rebasin(*argv, "--symmetry", "orthogonal", cwd=tmp_path)
    expected = contents(tmp_path, "*.*ed.safetensors")
    (tmp_path / "b.aligned.safetensors").unlink()
    done = rebasin(*argv, "--symmetry", "orthogonal", "--json", cwd=tmp_path)
    told = {event["path"]: event.get("reused", False) for event in done.events[:-1]}
    assert told == {"a.folded.safetensors": True, "b.aligned.safetensors": False}
    assert contents(tmp_path, "*.*ed.safetensors") == expected
    (tmp_path / "my.yaml").write_text(NETS["rotary"] + "# another text\n")
    changed = rebasin(*argv, "--symmetry", "orthogonal", cwd=tmp_path)
    assert "another run: the file my.yaml was changed" in changed.err


def test_a_merge_makes_no_match_twice(tmp_path):
    several(tmp_path)
    expected = uninterrupted(tmp_path, "merged*", *MERGE)
    killed(tmp_path, *MERGE, after=("step", 2))
    assert rebasin(*MERGE, cwd=tmp_path).code == 0
    assert contents(tmp_path, "merged*") == expected
    numbers = [event["number"] for event in events(tmp_path, "step")]
    assert numbers == list(range(len(numbers)))
    again = rebasin(*MERGE, "--json", cwd=tmp_path)
    assert again.events[0]["reused"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((), "list lists results of another run: b.safetensors was changed"),
        (
            ("--mode", "slerp"),
            "list lists results of another run: mode was linear, now it is slerp",
        ),
        (("--only", "0.*"), 'another run: selection.only was [], now it is ["0.*"]'),
    ],
)
def test_what_was_changed_is_told_and_nothing_replaced(tmp_path, change, message):
    pair(tmp_path)
    rebasin(*LERP, cwd=tmp_path)
    before = contents(tmp_path, "alpha*")
    if not change:
        save(tmp_path / "b.safetensors", mlp(5))
    done = rebasin(*LERP, *change, cwd=tmp_path)
    assert done.code == 2
    assert message in done.err
    assert "--force makes all anew; or name a file that is not there yet" in done.err
    assert contents(tmp_path, "alpha*") == before
    forced = rebasin(*LERP, *change, "--force", "--json", cwd=tmp_path)
    assert "all are made anew" in forced.events[0]["message"]
    assert not any("reused" in event for event in forced.events)
    assert contents(tmp_path, "alpha*") != before
    assert rebasin(*LERP, *change, "--json", cwd=tmp_path).events[0]["reused"]


def test_a_result_that_is_not_as_it_was_written_is_made_again(tmp_path):
    pair(tmp_path)
    rebasin(*LERP, cwd=tmp_path)
    expected = contents(tmp_path, "alpha*")
    (tmp_path / "lerp" / "alpha-0.500000.safetensors").write_bytes(b"something else")
    (tmp_path / "lerp" / "alpha-0.250000.safetensors").unlink()
    done = rebasin(*LERP, cwd=tmp_path)
    assert "alpha-0.500000.safetensors is not as it was written: it is made again" in done.err
    assert done.err.count("finished by an earlier run") == 1
    assert contents(tmp_path, "alpha*") == expected


def test_a_list_that_was_cut_off_counts_up_to_there(tmp_path):
    pair(tmp_path)
    rebasin(*LERP, cwd=tmp_path)
    whole = (tmp_path / "list").read_bytes()
    (tmp_path / "list").write_bytes(whole[:-20])
    assert rebasin(*LERP, "--dry-run", cwd=tmp_path).code == 0
    assert (tmp_path / "list").read_bytes() == whole[:-20]
    done = rebasin(*LERP, "--json", cwd=tmp_path)
    assert [event.get("reused", False) for event in done.events[:-1]] == [True, True, False]
    assert rebasin(*LERP, "--json", cwd=tmp_path).events[2]["reused"]


def test_a_list_that_the_disk_had_no_room_for_goes_on(tmp_path):
    pair(tmp_path)
    done = rebasin(*LERP, cwd=tmp_path, limits={"RLIMIT_FSIZE": 500})
    told = "cannot write: File too large\nhint: raise the file size limit (ulimit -f)"
    assert (done.code, told in done.err) == (4, True)
    assert len(rebasin(*LERP, cwd=tmp_path).lines) == 3


def test_more_points_may_be_asked_for(tmp_path):
    pair(tmp_path)
    rebasin(*LERP, cwd=tmp_path)
    done = rebasin(*LERP[:3], "--at", "0.5,0.6", "--resume", "list", "--json", cwd=tmp_path)
    assert [event.get("reused", False) for event in done.events[:-1]] == [True, False]


def test_what_no_run_had_begun_is_not_replaced(tmp_path):
    pair(tmp_path)
    (tmp_path / "lerp").mkdir()
    (tmp_path / "lerp" / "alpha-0.500000.safetensors").write_bytes(b"mine")
    done = rebasin(*LERP, cwd=tmp_path)
    assert (done.code, "exists" in done.err) == (2, True)
    assert not (tmp_path / "list").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((*LERP[:-1], "a.safetensors"), "--resume a.safetensors is one of the models"),
        ((*ALIGN, "--in-place"), "--resume compares the inputs with those before"),
        ((*ALIGN, "--symmetry", "auto"), "--symmetry auto decides by all models at once"),
        ((*LERP, "-o", "s3://bucket/line/"), "--resume lists results on this machine"),
        ((*LERP[:-1], "none/list"), "the folder none does not exist"),
        ((*LERP[:-1], "eval.py"), "eval.py:1: not a list of what was finished"),
        ((*MERGE, "--preserve-first", "1", "--model", "net.py:N"), "--resume lists matches of"),
    ],
)
def test_lists_that_cannot_be_are_refused(tmp_path, argv, message):
    several(tmp_path)
    (tmp_path / "eval.py").write_text("print(1)")
    done = rebasin(*argv, cwd=tmp_path)
    assert done.code in (2, 3)
    assert message in done.err
