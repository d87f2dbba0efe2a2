"""Being told to stop: quick, quiet, with the right code, and nothing left behind."""

import os
import signal
import subprocess
from time import sleep

import pytest

from tests.cli.build import mlp, save
from tests.cli.harness import (
    COMMAND,
    ROOT,
    captured,
    fresh,
    image,
    plain_environment,
    start,
    until,
)

LOADED = """
import os, signal
exec("os.kill(os.getpid(), signal.{name})\\nfor _ in range(1000): pass")  # as dataclasses are made
"""
WIDE = (8, 1200, 1200, 1200, 4)  # some seconds of assignments


def large_pair(folder):
    for name, seed in (("a", 1), ("b", 2)):
        save(folder / f"{name}.safetensors", mlp(seed, WIDE))


def interrupted(folder, number, *argv, after):
    """Send a signal once `after` is true; return exit code, stdout and stderr."""
    with captured() as files:
        running = start(*argv, cwd=folder, streams=[file.fileno() for file in files])
        until(lambda: after(files))
        running.send(number)
        code = running.wait()
        texts = []
        for file in files[1:]:
            file.seek(0)
            texts.append(file.read().decode())
        return code, *texts


@pytest.mark.parametrize(("name", "expected"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_torch_is_loaded_ends_with_its_code(tmp_path, name, expected):
    (tmp_path / "torch.py").write_text(LOADED.format(name=name))
    save(tmp_path / "a.safetensors", mlp(1))
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    done = fresh("inspect", "a.safetensors", cwd=tmp_path, env={"PYTHONPATH": path})
    assert done.code == expected
    assert done.err in ("interrupted\n", "terminated\n")


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_a_signal_at_any_moment_ends_with_its_code(tmp_path, moment):
    save(tmp_path / "a.safetensors", mlp(1))
    argv = (*COMMAND, "related", "a.safetensors", "a.safetensors")
    running = subprocess.Popen(argv, cwd=tmp_path, env=plain_environment(), stderr=subprocess.PIPE)
    sleep(0.2 + moment / 10)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert (running.returncode, err) in [(130, b"interrupted\n"), (0, err)]
    assert b"Traceback" not in err


def begun(files):
    """Tell whether the first result is out, so that the search is running."""
    return os.fstat(files[1].fileno()).st_size > 0


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_long_align_stops_when_told_and_leaves_nothing(tmp_path, number, expected):
    large_pair(tmp_path)
    before = image(tmp_path)
    argv = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp", "--restarts", "50")
    code, out, err = interrupted(tmp_path, number, *argv, after=begun)
    assert code == expected
    assert out == "a.safetensors\n"
    assert "Traceback" not in err
    assert image(tmp_path) == before


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_curve_that_is_stopped_takes_its_point_away(tmp_path, number, expected):
    large_pair(tmp_path)
    before = image(tmp_path)
    argv = ("lerp", "a.safetensors", "b.safetensors", "--steps", "2", "--exec", "sleep 600")

    def exists(files):
        return any((tmp_path / "lerp").glob("[!.]*"))

    code, out, err = interrupted(tmp_path, number, *argv, after=exists)
    assert (code, out) == (expected, "")
    assert "Traceback" not in err
    assert image(tmp_path) == before


def test_a_write_that_is_stopped_leaves_no_temporary_file(tmp_path):
    large_pair(tmp_path)
    argv = ("lerp", "a.safetensors", "b.safetensors", "--steps", "9", "-o", ".", "-f")

    def writing(files):
        return any(tmp_path.glob(".*.tmp"))

    code, _, err = interrupted(tmp_path, signal.SIGTERM, *argv, after=writing)
    assert code == 143
    assert "Traceback" not in err
    assert not list(tmp_path.glob(".*"))
    complete = {path.stat().st_size for path in tmp_path.glob("alpha-*.safetensors")}
    assert len(complete) <= 1, "every point that is there is whole"


def test_a_second_interrupt_is_no_traceback_either(tmp_path):
    large_pair(tmp_path)
    before = image(tmp_path)
    argv = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp", "--restarts", "50")
    with captured() as files:
        running = start(*argv, cwd=tmp_path, streams=[file.fileno() for file in files])
        until(lambda: begun(files))
        running.send(signal.SIGINT)
        sleep(0.02)
        running.send(signal.SIGINT)
        code = running.wait()
        files[2].seek(0)
        err = files[2].read().decode()
    assert code in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert image(tmp_path) == before
