"""Work in processes of their own: the same bytes and words as one after another in this one."""

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from time import sleep

import pytest

from tests.cli.build import mlp, save
from tests.cli.harness import image, rebasin, until
from tests.execution.nets import MODEL, WIDTHS, bytes_in, models, started

WIDE = (8, 1200, 1200, 1200, 4)  # some seconds of assignments
SPREAD = ("--executor", "processes", "--device", "cpu,cpu")


def written_by(executor, argv, folder):
    """Return exit code, words and files, without times."""
    done = rebasin(*argv, "-f", "-o", "out/", *executor, cwd=folder)
    said = [line for line in done.err.splitlines() if not line.endswith(" s")]
    return done.code, done.out, said, bytes_in(folder / "out")


def test_a_process_writes_and_says_what_this_one_does(tmp_path):
    names = models(tmp_path, 3)
    argv = ("align", *names, "--spec", "mlp", "--save-permutation", "out/")
    local, spread = (
        written_by(executor, argv, tmp_path)
        for executor in ((), ("--executor", "processes", "--jobs", "1"))
    )
    assert spread == local
    assert spread[0] == 0
    assert len(spread[-1]) == 4


@pytest.mark.slow
def test_where_one_of_several_fails_processes_say_it_in_the_same_order(tmp_path):
    names = models(tmp_path, 5)
    state = mlp(2, WIDTHS)
    save(tmp_path / names[2], {**state, "2.weight": state["2.weight"] * float("nan")})
    argv = ("align", *names, "--spec", "mlp")
    local, spread = (written_by(executor, argv, tmp_path) for executor in ((), SPREAD))
    assert spread == local
    assert spread[0] == 5
    assert len(spread[-1]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("--endpoints",),
        ("--align", "--spec", "mlp", "--mode", "slerp"),
        ("--exec", "sh -c 'test {alpha} != 0.5 && echo {alpha}'"),
    ],
)
def test_the_points_of_a_line_are_the_same_from_processes(tmp_path, more):
    names = models(tmp_path, 2)
    (tmp_path / "out").mkdir()
    argv = ("lerp", *names, "--steps", "3", *more)
    local, spread = (written_by(executor, argv, tmp_path) for executor in ((), SPREAD))
    assert spread == local
    assert spread[0] == (5 if "--exec" in more else 0)


def timeless(event):
    return {name: value for name, value in event.items() if name != "seconds"}


@pytest.mark.slow
def test_a_model_that_is_run_is_run_in_the_processes(tmp_path):
    names = models(tmp_path, 3)
    runs = [
        rebasin("align", *names, *MODEL, "--json", "-f", *more, cwd=tmp_path)
        for more in ((), SPREAD)
    ]
    local, spread = ([timeless(json.loads(line)) for line in run.lines] for run in runs)
    assert local[1]["output_difference"] < 1e-10
    assert spread == local


@pytest.mark.slow
def test_the_error_of_a_single_model_is_that_of_the_command(tmp_path):
    names = models(tmp_path, 2)
    state = mlp(1, WIDTHS)
    save(tmp_path / names[1], {**state, "2.weight": state["2.weight"] * float("nan")})
    local, spread = (
        rebasin("align", *names, "--spec", "mlp", "--json", *more, cwd=tmp_path)
        for more in ((), SPREAD)
    )
    assert local.code == 3
    assert spread == local


def wide_models(folder):
    names = [f"{name}.safetensors" for name in "abc"]
    for seed, name in enumerate(names):
        save(folder / name, mlp(seed, WIDE))
    return names


def workers_of(process):
    """Return the processes that a process has started, but for the one that only counts."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in command_of(child)]


def command_of(process):
    return Path(f"/proc/{process}/cmdline").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_processes_that_are_stopped_leave_nothing(tmp_path, number, code):
    names = wide_models(tmp_path)
    before = image(tmp_path)
    argv = ("align", *names, "--spec", "mlp", "--restarts", "50", *SPREAD)
    with started(*argv, cwd=tmp_path) as running:
        until(lambda: len(workers_of(running.pid)) == 2, pause=0.1)
        workers = workers_of(running.pid)
        sleep(5)  # until they work, and not only import
        running.send_signal(number)
        out, err = running.communicate()
    assert (running.returncode, out) == (code, f"{names[0]}\n")
    assert "Traceback" not in err
    assert image(tmp_path) == before
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_of(tmp_path):
    argv = ("align", *wide_models(tmp_path), "--spec", "mlp", "--restarts", "50", *SPREAD)
    with started(*argv, cwd=tmp_path) as running:
        until(lambda: len(workers_of(running.pid)) == 2, pause=0.1)
        os.kill(workers_of(running.pid)[0], signal.SIGKILL)
        err = running.communicate()[1]
    assert running.returncode == 4
    assert "has ended with code -9" in err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--executor", "dask"), "no executor is called 'dask'"),
        (("--device", "cpu,cpu"), "--device cpu,cpu is for several processes"),
        (("--executor", "ray", "--device", "cuda:1"), "which device a task gets"),
        ((*SPREAD, "--select", "2"), "leave out --select"),
        ((*SPREAD, "--symmetry", "orthogonal"), "--symmetry permutation"),
        ((*SPREAD, "--symmetry", "orthogonal", "--at", "0.5"), "leave out one of the two"),
        (("--executor", "ray", "--in-place"), "--in-place does not go with a cluster"),
        ((*SPREAD, "--method", "activations"), "does not go with --method activations"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_any_work(tmp_path, argv, text):
    names = models(tmp_path, 2)
    command = "lerp" if "--at" in argv else "align"
    done = rebasin(command, *names, *argv, cwd=tmp_path)
    assert done.code == 2
    assert text in done.err


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_where_ray_is_not_installed_it_is_said_how_to(tmp_path):
    done = rebasin("align", *models(tmp_path, 2), "--executor", "ray", cwd=tmp_path)
    assert done.code == 4
    assert "hint: pip install 'rebasin-cli[ray]'" in done.err
