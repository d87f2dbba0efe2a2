"""URLs in the place of paths: read as files here are, by parts, and written whole or not at all."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.remote import mirror
from rebasin_cli.checkpoint.remote.hub import HubName, hub_name
from rebasin_cli.checkpoint.remote.remote_path import RemotePath, named_path
from rebasin_cli.checkpoint.writing.writer import write_checkpoint, write_tensors, write_text
from rebasin_cli.errors import CheckpointError, MachineError, UsageError
from rebasin_cli.files.places import plan_place
from rebasin_cli.options.output import Output

memory = pytest.importorskip("fsspec.implementations.memory")
TENSORS = {f"t{k}": torch.arange(300.0) + k for k in range(4)}
BLOCK = 1000  # so that a file of these tensors has five


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(mirror, "BLOCK", BLOCK)
    found = memory.MemoryFileSystem()
    yield found
    found.store.clear()
    found.pseudo_dirs[:] = [""]


def put(store: Any, local: Path, url: str = "memory://bucket") -> str:
    """Bring a file or a folder into the store and return its URL."""
    for path in [p for p in (local.rglob("*") if local.is_dir() else [local]) if p.is_file()]:
        inside = path.relative_to(local.parent).as_posix()
        store.pipe_file(f"{url}/{inside}", path.read_bytes())
    return f"{url}/{local.name}"


def weights(tmp_path: Path, name: str = "m.safetensors") -> Path:
    save_file(TENSORS, tmp_path / name)
    return tmp_path / name


def write_sharded(folder: Path) -> Path:
    names = [f"model-{k:05}-of-00002.safetensors" for k in (1, 2)]
    folder.mkdir(exist_ok=True)
    for name, held in zip(names, (("t0", "t1"), ("t2", "t3")), strict=True):
        save_file({tensor: TENSORS[tensor] for tensor in held}, folder / name)
    index = {"metadata": {}, "weight_map": {t: names[t > "t1"] for t in TENSORS}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"n_head": 2}')
    return folder


class Asked:
    """The parts of a file that a store was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[tuple[int, int]] = []
        whole = memory.MemoryFileSystem.cat_file

        def cat_file(store: Any, path: str, start: int, end: int) -> bytes:
            self.parts.append((start, end))
            return whole(store, path, start=start, end=end)

        monkeypatch.setattr(memory.MemoryFileSystem, "cat_file", cat_file)

    @property
    def bytes(self) -> int:
        return sum(end - start for start, end in self.parts)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("s3://bucket/a/m.pt", "s3://bucket/a/m.pt"),
        ("s3:/bucket/a/m.pt", "s3://bucket/a/m.pt"),  # as it comes out of a Path
        ("hf://org/name@v1.0", "hf://org/name@v1.0"),
        ("file:///tmp/m.pt", "/tmp/m.pt"),
        ("a:/m.pt", "a:/m.pt"),
        ("folder/s3:/m.pt", "folder/s3:/m.pt"),
        ("s3:m.pt", "s3:m.pt"),
    ],
)
def test_a_url_is_told_from_a_path(typed: str, shown: str) -> None:
    path = named_path(typed)
    assert str(path) == str(named_path(path)) == shown
    assert isinstance(path, RemotePath) == ("://" in shown)


def test_a_url_has_the_parents_and_names_of_a_path() -> None:
    url = named_path("s3://bucket/a/m.pt")
    assert str(url.parent / "n.pt") == "s3://bucket/a/n.pt"
    assert str(url.with_suffix(".card.md")) == "s3://bucket/a/m.card.md"
    assert url.samefile(url.parent) and not url.parent.samefile(url)


@pytest.mark.parametrize(
    ("url", "repo", "revision", "inside"),
    [
        ("hf://org/name", "org/name", None, ""),
        ("hf://name@v1", "name", "v1", ""),
        ("hf://org/name@refs/pr/7/unet", "org/name", "refs/pr/7", "unet"),
        ("hf://org/name/unet/model.safetensors", "org/name", None, "unet/model.safetensors"),
    ],
)
def test_a_url_of_the_hub_is_taken_apart(
    url: str, repo: str, revision: str | None, inside: str
) -> None:
    assert hub_name(RemotePath(url)) == HubName(repo, revision, inside)


def test_a_url_of_the_hub_that_names_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="hf://a/b@c@d names no repository"):
        open_checkpoint("hf://a/b@c@d")


@pytest.mark.parametrize("form", ["m.safetensors", "m.pt", "folder", "index"])
def test_a_url_is_read_as_the_file_is(form: str, store: Any, tmp_path: Path) -> None:
    local = tmp_path / form
    if form == "m.safetensors":
        weights(tmp_path)
    elif form == "m.pt":
        torch.save({"model": TENSORS, "epoch": 3}, local)
    else:
        local = write_sharded(tmp_path / "folder")
    (tmp_path / "config.json").write_text('{"n_head": 3}')
    put(store, tmp_path / "config.json")
    url = put(store, local)
    ending = "/model.safetensors.index.json" if form == "index" else ""
    here, there = open_checkpoint(f"{local}{ending}"), open_checkpoint(f"{url}{ending}")
    assert str(there.path) == f"{url}{ending}"
    assert there.names() == here.names() and there.config == here.config != {}
    assert all(torch.equal(there.load(name), here.load(name)) for name in here.names())
    assert there.sha256() == here.sha256()


def test_a_header_and_a_tensor_are_read_in_parts_and_no_part_twice(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_MOST_BLOCKS", 2)
    local = weights(tmp_path)
    asked = Asked(monkeypatch)
    model = open_checkpoint(put(store, local))
    assert asked.parts == [(0, BLOCK)]
    model.load("t3")
    assert asked.bytes < local.stat().st_size - BLOCK
    model.load("t3"), model.load("t1"), model.sha256()
    assert asked.bytes == local.stat().st_size
    # Neighbours come in one request, as far as they may.
    assert max(end - start for start, end in asked.parts) == 2 * BLOCK


def test_what_stood_here_for_a_url_is_gone_with_the_model(store: Any, tmp_path: Path) -> None:
    model = open_checkpoint(put(store, weights(tmp_path)))
    (file,) = model.files
    assert file.exists()
    del model
    assert not file.parent.exists()


def test_a_file_that_changes_is_refused(store: Any, tmp_path: Path) -> None:
    url = put(store, weights(tmp_path))
    model = open_checkpoint(url)
    save_file({name: tensor + 1 for name, tensor in TENSORS.items()}, tmp_path / "m.safetensors")
    put(store, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=f"{url}: the file was changed while it was in use"):
        model.load("t3")


def test_a_server_without_parts_of_files_is_refused(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(store, weights(tmp_path))
    whole = memory.MemoryFileSystem.cat_file
    monkeypatch.setattr(
        memory.MemoryFileSystem, "cat_file", lambda store, path, **_: whole(store, path)
    )
    with pytest.raises(MachineError, match="asked for 1000 bytes, got 5"):
        open_checkpoint(url)


def test_errors_name_the_url(store: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "m.safetensors"
    damaged.write_bytes(weights(tmp_path).read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"memory://bucket/m.safetensors: the file is cut"):
        open_checkpoint(put(store, damaged))
    for url in ("memory://bucket/n.safetensors", "memory://nothing"):
        with pytest.raises(CheckpointError, match=f"{url}: no such file, folder or bucket"):
            open_checkpoint(url)
    with pytest.raises(UsageError, match="s4://b/x: not a URL: Protocol not known: s4"):
        open_checkpoint("s4://b/x")


def test_an_object_whose_name_leads_out_of_the_folder_is_left(store: Any, tmp_path: Path) -> None:
    put(store, weights(tmp_path), "memory://bucket/f")
    for name in ("/bucket/f/../evil.txt", "/bucket/f//evil.txt"):
        store.store[name] = memory.MemoryFile(store, name, b"evil")
    model = open_checkpoint("memory://bucket/f")
    assert [path.name for path in model.home.rglob("*")] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [("fsspec.core", "memory://b/m.pt", "remote"), ("huggingface_hub", "hf://org/name", "hub")],
)
def test_a_missing_package_is_told_with_its_extra(
    package: str, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MachineError, match=rf"pip install 'rebasin-cli\[{extra}\]'"):
        open_checkpoint(url)


def test_a_failure_of_the_store_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        pass

    def info(*_: object) -> None:
        raise NoCredentialsError("none found")

    monkeypatch.setattr(memory.MemoryFileSystem, "info", info)
    with pytest.raises(MachineError, match="NoCredentialsError: none found\nhint: check the cred"):
        open_checkpoint("memory://b/m.pt")


def test_a_file_is_uploaded_as_it_would_be_here(store: Any, tmp_path: Path) -> None:
    url = named_path("memory://bucket/out.safetensors")
    written = write_tensors(url, TENSORS, metadata={}, overwrite=False)
    write_tensors(tmp_path / "out.safetensors", TENSORS, metadata={}, overwrite=False)
    assert store.cat(str(url)) == (tmp_path / "out.safetensors").read_bytes()
    assert store.find("/") == ["/bucket/out.safetensors"]
    assert str(written.path) == str(url)
    with pytest.raises(UsageError, match="already exists"):
        write_text(url, "new", overwrite=False)
    write_text(url, "new", overwrite=True)
    assert store.cat(str(url)) == b"new" and len(store.find("/")) == 1


def test_a_folder_is_uploaded_with_its_weights_last(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    copy = memory.MemoryFileSystem.cp_file

    def cp_file(store: Any, old: str, new: str) -> None:
        moved.append(new)
        copy(store, old, new)

    monkeypatch.setattr(memory.MemoryFileSystem, "cp_file", cp_file)
    write_folder_like(tmp_path, "memory://bucket/out[1]")
    assert [name.rpartition("/")[2][:12] for name in moved] == [
        "config.json",
        "model-00001-",
        "model-00002-",
        "model.safete",
    ]
    assert sorted(moved) == store.find("/")
    with open_checkpoint("memory://bucket/out[1]") as made:
        assert all(torch.equal(made.load(name), TENSORS[name]) for name in TENSORS)
    with pytest.raises(UsageError, match="already exists"):
        write_folder_like(tmp_path, "memory://bucket/out[1]")


def write_folder_like(tmp_path: Path, url: str) -> None:
    with open_checkpoint(write_sharded(tmp_path / "folder")) as model:
        infos = [model.info(name) for name in model.names()]
        write_checkpoint(named_path(url), infos, model.load, model.layout, overwrite=False)


@pytest.mark.parametrize("failing", ["put_file", "cp_file"])
def test_an_upload_that_fails_leaves_nothing(
    failing: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = getattr(memory.MemoryFileSystem, failing)

    def fails(store: Any, old: str, new: str) -> None:
        if "00002" in new:
            raise ConnectionError("reset")
        works(store, old, new)

    monkeypatch.setattr(memory.MemoryFileSystem, failing, fails)
    with pytest.raises(MachineError, match="cannot write: ConnectionError: reset"):
        write_folder_like(tmp_path, "memory://bucket/out")
    assert store.find("/") == []


def test_places_that_cannot_be_written_are_refused_before_the_work(
    store: Any, tmp_path: Path
) -> None:
    folder = named_path(put(store, weights(tmp_path).parent))
    with pytest.raises(UsageError, match="hf://org/name cannot be written to\nhint: say where"):
        plan_place(named_path("hf://org/name"), Output())
    with pytest.raises(UsageError, match="is a folder of a store"):
        plan_place(folder, Output(force=True))
    with pytest.raises(UsageError, match="is one of the inputs"):
        plan_place(folder / "m.safetensors", Output(force=True), own=[folder])
    place = plan_place(folder / "m.safetensors", Output(in_place=True), own=[folder])
    assert place.overwrite and not place.folder
