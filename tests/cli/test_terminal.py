"""What a person at a terminal sees: a bar on stderr, and no command that waits for typing."""

import io
import json
import os
import pty
import select
from contextlib import contextmanager

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from rebasin_cli.cli import screen
from tests.cli.build import mlp, pair, save
from tests.cli.harness import captured, start
from tests.cli.models import planted, write_net

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")
ERASE = "\x1b[2K"  # what every redrawn line begins with


@contextmanager
def terminal():
    """Yield both ends of a new terminal."""
    person, program = pty.openpty()
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)


def at_a_terminal(*argv, cwd, numbers, env=None):
    """Run with the streams of these numbers on a terminal: code, what it shows, stdout, stderr."""
    with terminal() as (person, program), captured() as files:
        streams = [program if n in numbers else file.fileno() for n, file in enumerate(files)]
        running = start(*argv, cwd=cwd, streams=streams, env=env)
        shown = b""
        while not _over(running.pid):
            shown += _typed(person, 0.05)
        shown += _typed(person, 0)
        code = running.wait()
        texts = []
        for file in files[1:]:
            file.seek(0)
            texts.append(file.read().decode())
        return code, shown.decode().replace("\r\n", "\n"), *texts


def _over(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _typed(person, seconds):
    """Return all that has arrived at a terminal."""
    data = b""
    while select.select([person], [], [], seconds)[0]:
        data, seconds = data + os.read(person, 65536), 0
    return data


def test_a_bar_shows_on_a_terminal_and_never_in_the_results(tmp_path):
    pair(tmp_path)
    code, shown, out, _ = at_a_terminal(*ALIGN, cwd=tmp_path, numbers=[2])
    assert code == 0
    assert ERASE in shown
    assert out == "a.safetensors\nb.aligned.safetensors\n"


def test_paths_are_whole_lines_on_a_terminal_that_shows_both_streams(tmp_path):
    pair(tmp_path)
    _, shown, _, _ = at_a_terminal(*ALIGN, cwd=tmp_path, numbers=[1, 2])
    plain = [line.rpartition("\x1b[2K")[2].rpartition("\r")[2] for line in shown.splitlines()]
    assert any(line.endswith("a.safetensors") for line in plain)
    assert any(line.endswith("b.aligned.safetensors") for line in plain)


@pytest.mark.parametrize(
    ("extra", "env"),
    [(("--no-progress",), {}), (("-q",), {}), ((), {"TERM": "dumb"})],
    ids=["no-progress", "quiet", "dumb"],
)
def test_no_bar_where_none_is_wanted_or_possible(tmp_path, extra, env):
    pair(tmp_path)
    code, shown, out, _ = at_a_terminal(*ALIGN, *extra, cwd=tmp_path, numbers=[2], env=env)
    assert code == 0
    assert ERASE not in shown
    assert out.count("\n") == 2


def test_no_bar_on_a_pipe(tmp_path):
    pair(tmp_path)
    _, _, out, err = at_a_terminal(*ALIGN, cwd=tmp_path, numbers=[0])
    assert "\x1b" not in out + err


@pytest.mark.parametrize("command", ["merge", "lerp --steps 3"])
def test_a_command_without_models_does_not_wait_for_a_person(tmp_path, command):
    code, _, out, err = at_a_terminal(*command.split(), cwd=tmp_path, numbers=[0])
    assert code == 2
    assert "models" in err
    assert out == ""


def test_no_colour_is_respected(tmp_path):
    pair(tmp_path)
    argv = (*ALIGN, "-v", "--no-progress")
    _, shown, _, _ = at_a_terminal(*argv, cwd=tmp_path, numbers=[2], env={"NO_COLOR": "1"})
    assert "hidden.0" in shown
    assert "\x1b[3" not in shown


def test_tracing_before_an_alignment_shows_on_a_terminal(tmp_path):
    write_net(tmp_path)
    planted(tmp_path)
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    argv = ("align", *ALIGN[1:3], "--model", "net.py:Net")
    code, shown, out, _ = at_a_terminal(*argv, cwd=tmp_path, numbers=[2], env=env)
    assert code == 0
    assert "tracing net.py:Net" in shown
    assert out == "a.safetensors\nb.aligned.safetensors\n"
    again = at_a_terminal(*argv, "-f", cwd=tmp_path, numbers=[2], env=env)
    assert (again[0], "tracing net.py:Net" in again[1]) == (0, False)  # it comes from the cache


def test_a_failure_of_the_plan_is_told_below_the_bar(tmp_path):
    argv = ("align", "a.safetensors", "b.safetensors")
    code, shown, _, _ = at_a_terminal(*argv, cwd=tmp_path, numbers=[2])
    assert code == 3
    assert "error: " in shown.rpartition("\x1b[2K")[2]


def test_a_dry_run_prints_its_plan_and_nothing_else(tmp_path):
    pair(tmp_path)
    code, _, out, _ = at_a_terminal(*ALIGN, "-n", cwd=tmp_path, numbers=[2])
    assert (code, json.loads(out)["command"]) == (0, "align")


def test_of_several_models_the_bar_names_the_one_it_is_at(tmp_path):
    pair(tmp_path)
    save(tmp_path / "c.safetensors", mlp(3))
    for command in ("merge", "align"):
        argv = (command, *ALIGN[1:], "c.safetensors")
        _, shown, *_ = at_a_terminal(*argv, cwd=tmp_path, numbers=(2,))
        assert "b.safetensors: matching" in shown and "c.safetensors: matching" in shown


def test_a_step_is_not_shown_with_the_total_of_the_one_before():
    bars = Bars(console=Console(file=io.StringIO()))
    bars.add_task("starting", total=None)
    (task,) = bars.tasks
    screen._tell(bars, task, "matching", 3, 8)
    began = task.start_time
    assert (task.completed, task.total) == (3, 8)
    screen._tell(bars, task, "checking", 0, 0)
    assert (task.description, task.completed, task.total) == ("checking", 0, None)
    assert task.start_time == began
