"""A write that succeeds has the right mode and name; one that fails leaves no trace."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing import publish
from rebasin_cli.checkpoint.writing.neighbours import new_neighbour_file, new_neighbour_folder
from rebasin_cli.checkpoint.writing.writer import write_checkpoint, write_tensors
from rebasin_cli.errors import MachineError, UsageError

TENSORS = {f"t{i}": torch.full((50,), float(i)) for i in range(4)}
FORMS = ["single.safetensors", "single.pt", "folder"]


def write(path: Path, *, overwrite: bool = False) -> None:
    write_tensors(path, TENSORS, metadata={}, overwrite=overwrite)


def source_of(tmp_path: Path, form: str) -> Path:
    """Make a checkpoint of one of the three forms."""
    if form.endswith(".safetensors"):
        write(tmp_path / form)
    elif form.endswith(".pt"):
        torch.save(TENSORS, tmp_path / form)
    else:
        (tmp_path / form).mkdir()
        write(tmp_path / form / "model.safetensors")
        (tmp_path / form / "config.json").write_text("{}")
    return tmp_path / form


def rewrite(
    source: Path, target: Path, produce: Callable[[str], Tensor], *, overwrite: bool = True
) -> None:
    with open_checkpoint(source) as checkpoint:
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        write_checkpoint(
            target, infos, produce, checkpoint.layout, metadata={}, overwrite=overwrite
        )


def image(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of everything in a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_mode,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        write(tmp_path / "x.safetensors")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == mode


def test_a_replaced_file_keeps_its_mode(tmp_path):
    write(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").chmod(0o640)
    write(tmp_path / "x.safetensors", overwrite=True)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o640


def test_a_replaced_folder_keeps_its_mode(tmp_path):
    folder = source_of(tmp_path, "folder")
    folder.chmod(0o750)
    rewrite(folder, folder, TENSORS.__getitem__)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path, exists):
    (tmp_path / "real").mkdir()
    if exists:
        (tmp_path / "real" / "x.safetensors").write_bytes(b"old")
    (tmp_path / "link.safetensors").symlink_to("real/x.safetensors")
    write(tmp_path / "link.safetensors", overwrite=exists)
    assert (tmp_path / "link.safetensors").is_symlink()
    assert open_checkpoint(tmp_path / "real" / "x.safetensors").names() == tuple(TENSORS)


def test_an_existing_target_is_refused_without_overwrite(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="already exists\nhint: --force replaces it"):
        write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", FORMS)
def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path, form):
    source = source_of(tmp_path, form)
    target = tmp_path / "out"

    def produce(name: str) -> Tensor:
        target.write_bytes(b"another program's")
        return TENSORS[name]

    with pytest.raises(UsageError, match="already exists"):
        rewrite(source, target, produce, overwrite=False)
    assert target.read_bytes() == b"another program's"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([form, "out"])


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(UsageError, match=r"no such folder: .*nowhere\nhint: create it first"):
        write(tmp_path / "nowhere" / "x.safetensors")


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_device_is_not_replaced_by_a_file(tmp_path, overwrite):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="exists and is not a regular file"):
        write(tmp_path / "pipe", overwrite=overwrite)


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path):
    write(tmp_path / ("ä" * 120 + ".safetensors"))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("exists", [True, False])
def test_a_write_that_fails_half_way_changes_nothing(tmp_path, form, failure, exists):
    source = source_of(tmp_path, form)
    target = source if exists else tmp_path / "out"
    before = image(tmp_path)

    def produce(name: str) -> Tensor:
        if name == "t2":
            assert len(image(tmp_path)) > len(before), "nothing was written yet"
            raise failure
        return TENSORS[name]

    with pytest.raises(failure):
        rewrite(source, target, produce, overwrite=exists)
    assert image(tmp_path) == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("call", [1, 4])
def test_an_interrupted_disk_write_changes_nothing(tmp_path, monkeypatch, form, failure, call):
    source = source_of(tmp_path, form)
    before = image(tmp_path)
    calls: list[int] = []
    real_write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        calls.append(descriptor)
        if len(calls) == call:
            raise failure
        return real_write(descriptor, data[: max(1, len(data) // 2)])

    monkeypatch.setattr(os, "write", interrupted)
    expected = KeyboardInterrupt if failure is KeyboardInterrupt else MachineError
    with pytest.raises(expected):
        rewrite(source, source, TENSORS.__getitem__)
    assert image(tmp_path) == before


@pytest.mark.parametrize("form", FORMS)
def test_short_writes_are_continued(tmp_path, monkeypatch, form):
    source = source_of(tmp_path, form)
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:97]))
    rewrite(source, source, lambda name: TENSORS[name] + 1)
    assert open_checkpoint(source).load("t3").tolist() == [4.0] * 50


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_at_the_last_step_changes_nothing(tmp_path, monkeypatch, step):
    source = source_of(tmp_path, "single.safetensors")
    before = image(tmp_path)

    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path if step == "replace" else os, step, fail)
    with pytest.raises(
        MachineError, match=r"single\.safetensors: cannot write: Input/output error"
    ):
        rewrite(source, source, TENSORS.__getitem__)
    assert image(tmp_path) == before


def test_folders_are_swapped_in_steps_where_they_cannot_be_exchanged(tmp_path, monkeypatch):
    source = source_of(tmp_path, "folder")
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    rewrite(source, source, lambda name: TENSORS[name] + 1)
    assert open_checkpoint(source).load("t3").tolist() == [4.0] * 50
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_swap_in_steps_that_fails_is_undone(tmp_path, monkeypatch):
    source = source_of(tmp_path, "folder")
    before = image(tmp_path)
    real_rename = Path.rename
    failed: list[Path] = []

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp") and target == source and not failed:
            failed.append(self)
            raise OSError(5, "Input/output error")
        return real_rename(self, target)

    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(MachineError, match="Input/output error"):
        rewrite(source, source, TENSORS.__getitem__)
    assert image(tmp_path) == before


LIMITED = """
import resource, signal, sys, torch
from pathlib import Path
from rebasin_cli.checkpoint.layout import layout_for
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_checkpoint
from rebasin_cli.errors import MachineError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for path in (source, source.with_suffix(".pt")):
    with open_checkpoint(source) as x:
        infos = [x.info(name) for name in x.names()]
        layout = layout_for(x.layout, "pt" if path.suffix == ".pt" else "safetensors")
        try:
            write_checkpoint(path, infos, x.load, layout, metadata={}, overwrite=True)
        except MachineError as error:
            print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_the_target(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(50_000)}, metadata={}, overwrite=False)
    before = image(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
    assert f"{path}: cannot write: File too large" in done.stdout
    assert f"{path.with_suffix('.pt')}: cannot write: File too large" in done.stdout
    assert image(tmp_path) == before


def test_a_read_only_folder_is_the_machines_fault(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(MachineError, match=f"cannot write: {os.strerror(errno.EACCES)}"):
        write(folder / "x.safetensors")


def test_many_writes_of_any_size_are_in_the_file_and_in_its_digest(tmp_path):
    parts = [bytes([k % 251]) * size for k, size in enumerate((3, 70_000, 0, 65_535, 5_000_000, 1))]
    with publish.new_file(tmp_path / "x", overwrite=False) as sink:
        for part in parts:
            sink.write(part)
    whole = b"".join(parts)
    assert (tmp_path / "x").read_bytes() == whole
    assert (sink.bytes, sink.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_what_is_settled_may_change(tmp_path):
    data = bytearray(b"a" * 3_000_000)
    with publish.new_file(tmp_path / "x", overwrite=False) as sink:
        sink.write(memoryview(data))
        sink.settle()
        data[:] = b"b" * len(data)
    assert (tmp_path / "x").read_bytes() == b"a" * len(data)
    assert sink.sha256 == hashlib.sha256(b"a" * len(data)).hexdigest()


@pytest.mark.parametrize("form", ["single.safetensors", "folder"])
def test_what_a_killed_process_left_is_cleared_away(tmp_path, form):
    source = source_of(tmp_path, form)
    left = tmp_path / f".{form}.0.tmp"
    if form == "folder":
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
    else:
        left.write_bytes(b"half")
    rewrite(source, source, lambda name: TENSORS[name] + 1)
    assert [path.name for path in tmp_path.iterdir()] == [form]
    assert open_checkpoint(source).load("t3").tolist() == [4.0] * 50


@pytest.mark.parametrize("form", ["single.safetensors", "folder"])
def test_what_another_process_is_writing_stays(tmp_path, form):
    source = source_of(tmp_path, form)
    make = new_neighbour_folder if form == "folder" else new_neighbour_file
    with make(source, where=source):
        theirs = {path.name for path in tmp_path.iterdir()} - {form}
        assert len(theirs) == 1
        rewrite(source, source, lambda name: TENSORS[name] + 1)
        assert {path.name for path in tmp_path.iterdir()} == {form} | theirs
    assert [path.name for path in tmp_path.iterdir()] == [form]
    rewrite(source, source, lambda name: TENSORS[name] + 2)
    assert [path.name for path in tmp_path.iterdir()] == [form]


def test_a_link_in_the_place_of_what_is_left_over_is_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".x.safetensors.0.tmp").symlink_to("precious")
    write(tmp_path / "x.safetensors")
    assert (tmp_path / "precious").read_bytes() == b"precious"
