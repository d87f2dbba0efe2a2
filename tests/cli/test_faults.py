"""The disk, the folder or an input fails in the middle: told, and nothing partial is left."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.checkpoint.writing.publish import new_file
from rebasin_cli.errors import MachineError
from tests.cli.build import mlp, near, pair, save
from tests.cli.harness import captured, image, rebasin, start, until

NOBODY = 65534  # a user without rights of its own
LERP = ("lerp", "a.safetensors", "b.safetensors")
MERGE = ("merge", "a.safetensors", "b.safetensors", "--strategy", "none")


@pytest.mark.parametrize(
    "argv",
    [
        (*LERP, "--steps", "5", "-j", "2"),
        (*LERP, "--at", "0.5", "-o", "x.pt"),
        MERGE,
        (*MERGE, "--max-shard-size", "3KB", "-o", "shards"),
    ],
    ids=["points of a line", "a PyTorch file", "a mean", "shards"],
)
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, argv):
    pair(tmp_path)
    before = image(tmp_path)
    done = rebasin(*argv, cwd=tmp_path, limits={"RLIMIT_FSIZE": 2000})
    assert done.code == 4
    assert "cannot write: File too large" in done.err
    assert done.lines == []
    assert image(tmp_path) == before


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_an_input_cut_short_in_the_middle_of_a_line_ends_it(tmp_path, ending):
    for seed, name in enumerate("ab"):
        save(tmp_path / f"{name}.{ending}", mlp(seed))
    models, cut = (f"a.{ending}", f"b.{ending}"), f"truncate -s 900 b.{ending}"
    argv = ("lerp", *models, "--steps", "3", "--keep", "--max-memory", "1KB", "-o", "line/")
    done = rebasin(*argv, "--exec", f"sh -c '{cut} && echo 1'", cwd=tmp_path)
    assert done.code == 3
    assert f"b.{ending}: the file was changed while it was in use" in done.err
    assert [path.name for path in (tmp_path / "line").iterdir()] == [f"alpha-0.250000.{ending}"]


def test_two_runs_that_write_one_target_leave_it_whole(tmp_path):
    state = mlp(1, (64, 256, 256, 10))
    save(tmp_path / "a.safetensors", state)
    save(tmp_path / "b.safetensors", near(state, 2))
    assert rebasin(*MERGE, "-o", "alone.safetensors", cwd=tmp_path).code == 0
    argv = (*MERGE, "-o", "x.safetensors", "--force")
    with captured() as files:
        streams = [file.fileno() for file in files]
        runs = [start(*argv, cwd=tmp_path, streams=streams) for _ in range(3)]
        assert [run.wait() for run in runs] == [0, 0, 0]
    found, alone = (load_file(tmp_path / f"{name}.safetensors") for name in ("x", "alone"))
    assert found.keys() == alone.keys()
    assert all(torch.equal(found[name], alone[name]) for name in alone)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_of_two_runs_without_force_one_gets_the_name(tmp_path):
    pair(tmp_path)
    with captured() as files:
        streams = [file.fileno() for file in files]
        runs = [
            start(*MERGE, "-o", "x.safetensors", cwd=tmp_path, streams=streams) for _ in range(3)
        ]
        assert sorted(run.wait() for run in runs) == [0, 2, 2]
    assert (
        load_file(tmp_path / "x.safetensors").keys() == load_file(tmp_path / "a.safetensors").keys()
    )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_locked_in_the_middle_is_told_and_the_next_run_clears_it():
    mine = os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # where another user may come, unlike tmp_path
        folder = Path(name)
        if mine == 0:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            with (
                pytest.raises(MachineError, match="cannot write: Permission denied"),
                new_file(folder / "x", overwrite=False) as sink,
            ):
                sink.write(b"1234")
                folder.chmod(0o555)
            folder.chmod(0o755)
            assert not (folder / "x").exists()
            with new_file(folder / "x", overwrite=False) as sink:
                sink.write(b"5678")
            assert [path.name for path in folder.iterdir()] == ["x"]
        finally:
            os.seteuid(mine)


def test_an_interrupted_line_leaves_whole_points_alone(tmp_path):
    state = mlp(1, (64, 1024, 1024, 10))
    save(tmp_path / "a.safetensors", state)
    save(tmp_path / "b.safetensors", near(state, 2))
    with captured() as files:
        streams = [file.fileno() for file in files]
        running = start(*LERP, "--steps", "200", "-j", "3", cwd=tmp_path, streams=streams)
        until(lambda: any((tmp_path / "lerp").glob("alpha-*")))
        running.send(signal.SIGINT)
        assert running.wait() == 130
    points = list((tmp_path / "lerp").iterdir())
    assert 0 < len(points) < 200
    assert not [path for path in points if path.name.startswith(".")]
    assert all(load_file(path).keys() == state.keys() for path in points)


def test_points_made_by_several_threads_are_those_made_by_one(tmp_path):
    pair(tmp_path)
    for jobs in ("1", "4"):
        argv = (*LERP, "--steps", "9", "-o", f"line-{jobs}/", "-j", jobs)
        done = rebasin(*argv, cwd=tmp_path)
        assert done.lines == [
            f"line-{jobs}/alpha-0.{tenth}00000.safetensors" for tenth in range(1, 10)
        ]
    one, four = (image_of(tmp_path / f"line-{jobs}") for jobs in ("1", "4"))
    assert len(one) == 9
    assert one == four


def image_of(folder):
    """Return the bytes of the files in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
