"""The points of a barrier, judged by processes: the figures, words and files of this one."""

import json
import re
import signal
from functools import partial
from pathlib import Path
from time import monotonic
from typing import cast

import pytest

from rebasin_cli.commands.barrier.command import BarrierRequest
from rebasin_cli.commands.barrier.judged_point import (
    CommonWork,
    Ends,
    JudgeTask,
    MixtureModel,
    stored_ends,
)
from rebasin_cli.commands.barrier.plan import plan_barrier
from rebasin_cli.commands.barrier.scored_points import MixturePoint
from rebasin_cli.execution.answer import pack, unpack
from rebasin_cli.execution.processes import GRACE
from rebasin_cli.options.data import Data
from rebasin_cli.options.selection import Selection
from rebasin_cli.options.tracing import Tracing
from rebasin_cli.progress import silent
from tests.cli.harness import rebasin, until
from tests.commands.barrier.barrier_files import (
    BARRIER,
    ON_DATA,
    write_normed,
    write_third,
    write_user,
)
from tests.execution.nets import started
from tests.execution.test_processes import SPREAD, timeless, workers_of

MORE = """

def drawn(model):
    return float(torch.rand(())) + weight(model)


def between_fails(model):
    ends = [load_file(HERE / f"{name}.safetensors")["0.weight"] for name in "ab"]
    if not any(torch.equal(model[0].weight, end) for end in ends):
        raise RuntimeError("the disk with the images is gone")
    return 1.0
"""
PLANE = (
    *("barrier", "a.safetensors", "b.safetensors", "c.safetensors", "--plane", "--spec", "mlp"),
    *("--model", "user.py:net", "--data", "user.py:batches", "--steps", "3", "--margin", "0"),
)
NORMED = ("barrier", "n.safetensors", "m.safetensors", "--model", "user.py:normed", "--steps", "3")


def told(done):
    """Return exit code, events and words of a run, without times."""
    words = [re.sub(r"\d+(\.\d+)? s$", "", line) for line in done.err.splitlines()]
    return done.code, [timeless(json.loads(line)) for line in done.lines], words


def both(folder, *argv):
    """Return what is told of two runs, by this process and by others."""
    here, spread = (rebasin(*argv, "--json", *more, cwd=folder) for more in ((), SPREAD))
    return told(here), told(spread)


def written(folder):
    write_user(folder)
    write_third(folder)
    write_normed(folder)


def test_a_task_that_arrived_judges_as_the_one_that_was_sent(tmp_path, monkeypatch):
    write_user(tmp_path)
    monkeypatch.chdir(tmp_path)
    request = BarrierRequest(
        [tmp_path / "a.safetensors", tmp_path / "b.safetensors"],
        executor="processes",
        selection=Selection(spec="mlp"),
        tracing=Tracing(target="user.py:net"),
        data=Data(data="user.py:batches"),
    )
    plan = plan_barrier(request)
    work = CommonWork(MixtureModel(plan, 1), Ends(partial(stored_ends, plan)))
    sent = [JudgeTask(work, MixturePoint("naive", (1 - alpha, alpha))) for alpha in (0.0, 0.5)]
    arrived = [cast("JudgeTask", unpack(pack(task))) for task in sent]
    there, here = ([task(plan.machine, silent)[0] for task in tasks] for tasks in (arrived, sent))
    assert there == here
    assert here[0]["accuracy"] == 1 > here[1]["accuracy"]
    assert arrived[0].work is arrived[1].work is not work, "what they share is made once"


@pytest.mark.slow
def test_a_process_judges_as_this_one_does(tmp_path):
    write_user(tmp_path)
    one = ("--executor", "processes", "--jobs", "1")
    argv = (*ON_DATA, "--steps", "3", "--json")
    here, spread = (told(rebasin(*argv, *more, cwd=tmp_path)) for more in ((), one))
    assert here == spread
    assert here[0] == 0
    assert len([event for event in here[1] if "scores" in event and "alpha" in event]) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        (*BARRIER, "--evaluate", "user.py:drawn", "--steps", "4"),
        (*NORMED, "--data", "user.py:batches", "--renormalize", "reset"),
        (*ON_DATA, "--renormalize", "repair", "--steps", "3", "--diagnose"),
        PLANE,
        (*BARRIER, "--data", "user.py:wide"),
        (*BARRIER, "--evaluate", "user.py:between_fails", "--steps", "3"),
    ],
    ids=["drawn", "reset", "repair", "plane", "misfit", "fails"],
)
def test_every_curve_and_error_is_the_same_from_processes(tmp_path, argv):
    written(tmp_path)
    with (tmp_path / "user.py").open("a") as file:
        file.write(MORE)
    here, spread = both(tmp_path, *argv)
    assert here == spread
    assert here[0] == (3 if {"user.py:wide", "user.py:between_fails"} & set(argv) else 0)


@pytest.mark.slow
def test_what_this_process_has_judged_others_do_not_judge_again(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--resume", "p.ndjson", "--json")
    rebasin(*argv, "--steps", "3", cwd=tmp_path)
    judged = (tmp_path / "marks").stat().st_size
    spread = rebasin(*argv, "--steps", "5", *SPREAD, cwd=tmp_path)
    assert (spread.code, (tmp_path / "marks").stat().st_size) == (0, judged + 4)
    (tmp_path / "p.ndjson").unlink()
    here = rebasin(*argv, "--steps", "5", cwd=tmp_path)
    scores = [[e["scores"] for e in done.events if "curve" in e] for done in (spread, here)]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 10


@pytest.mark.slow
def test_judging_that_is_stopped_keeps_what_is_done_and_leaves_no_process(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:slow", "--no-align", "--resume", "p.ndjson", *SPREAD)
    with started(*argv, cwd=tmp_path) as running:
        try:
            until(lambda: marks(tmp_path) == 4, pause=0.1)  # two are judged, two will not end
            workers, done, began = workers_of(running.pid), kept(tmp_path), monotonic()
        finally:
            running.send_signal(signal.SIGINT)
            err = running.communicate()[1]
    assert running.returncode == 130
    assert "Traceback" not in err
    assert len(workers) == 2
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert monotonic() - began < GRACE / 2, "they are told, and not waited for"
    assert kept(tmp_path) == done


def marks(folder):
    return (folder / "marks").stat().st_size if (folder / "marks").exists() else 0


def kept(folder):
    file = folder / "p.ndjson"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_orthogonal_maps_and_processes_exclude_each_other(tmp_path):
    write_user(tmp_path)
    argv = (*BARRIER, "--evaluate", "user.py:weight", "--symmetry", "orthogonal", *SPREAD)
    done = rebasin(*argv, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "--executor processes does not go with --symmetry orthogonal" in done.err
