"""A process that is killed at any moment leaves the old file or the new one, whole."""

import os
import signal
from time import sleep

import pytest

from tests.cli.build import mlp, near, save
from tests.cli.harness import captured, rebasin, start, until

WIDTHS = (64, 512, 512, 10)
ARGV = [
    "align",
    "a.safetensors",
    "b.safetensors",
    "--spec",
    "mlp",
    "-o",
    "x.safetensors",
    "--force",
]
MOMENTS = 50


def align_and_kill(folder, seconds):
    """Align onto x.safetensors and kill the process so long after its write begins."""
    with captured() as files:
        running = start(*ARGV, cwd=folder, streams=[file.fileno() for file in files])
        until(lambda: _is_writing(folder) or _is_written(folder), pause=0.0002)
        sleep(seconds)
        running.send(signal.SIGKILL)
        running.wait()


def _is_writing(folder):
    return any(folder.glob(".x.safetensors.*.tmp"))


def _is_written(folder):
    return (folder / "x.safetensors").stat().st_mtime != 0


@pytest.mark.slow
def test_the_target_is_old_or_new_at_every_moment(tmp_path):
    state = mlp(1, WIDTHS)
    save(tmp_path / "a.safetensors", state)
    save(tmp_path / "b.safetensors", near(state, 2))
    target = tmp_path / "x.safetensors"
    assert rebasin(*ARGV, cwd=tmp_path).code == 0
    new, old = target.read_bytes(), b"the old model" * 1000
    seen = []
    for moment in range(MOMENTS):
        for debris in tmp_path.glob(".x.safetensors.*.tmp"):
            debris.unlink()
        _put(target, old)
        # The write takes some milliseconds: the moments are dense in it, and some come after it.
        align_and_kill(tmp_path, 0.02 * (moment / MOMENTS) ** 2)
        found = target.read_bytes()
        assert found in (old, new)
        seen.append(found == new)
    assert True in seen, "no kill came after the write"
    assert False in seen, "no kill came before the end of the write"


def _put(target, content):
    """Make the target the old file again, with a time that shows when it is replaced."""
    target.write_bytes(content)
    os.utime(target, (0, 0))
