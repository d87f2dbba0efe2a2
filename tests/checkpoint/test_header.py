"""Every way in which a safetensors file can be broken, each built by hand."""

import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.writing.writer import write_tensors
from rebasin_cli.errors import CheckpointError, MachineError

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def build(header: Any, data: bytes = bytes(8), *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes: object) -> dict[str, object]:
    return {"w": {**GOOD, **changes}}


def pair(first: list[int], second: list[int], size: int = 4) -> dict[str, object]:
    shape = [size // 4]
    return {
        "a": {"dtype": "F32", "shape": shape, "data_offsets": first},
        "b": {"dtype": "F32", "shape": shape, "data_offsets": second},
    }


BROKEN = {
    "empty file": (b"", "the file is empty"),
    "too short": (b"1234", "too short for a safetensors file\nexpected at least 8 bytes, found 4"),
    "huge header": (
        build(b"{}", length=10**9),
        "the header claims 1000000000 bytes, the limit is 100000000",
    ),
    "cut header": (
        build({"w": GOOD}, b"", length=900),
        "the header claims 900 bytes, the file has",
    ),
    "not utf-8": (build(b'{"\xff": 1}'), "the header is not UTF-8"),
    "not json": (build(b'{"w": '), "the header is not JSON"),
    "deep json": (build(b'{"w": ' + b"[" * 200_000), "the header is nested too deeply"),
    "huge number": (build(b'{"w": ' + b"9" * 10_000 + b"}"), "the header is not JSON"),
    "a list": (build([1]), "the header is not a JSON object"),
    "duplicate name": (
        build(b'{"w": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "w": 1}'),
        "the header has duplicate keys: 'w'",
    ),
    "duplicate field": (
        build(b'{"w": {"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        "the header has duplicate keys: 'dtype'",
    ),
    "metadata list": (build({"__metadata__": [], "w": GOOD}), "__metadata__ is not an object"),
    "metadata number": (
        build({"__metadata__": {"a": 1}, "w": GOOD}),
        "__metadata__ holds values that are not text: 'a'",
    ),
    "entry is text": (build({"w": "F32"}), "tensor 'w' is not an object"),
    "lone surrogate": (build(b'{"\\ud800": 3}'), "has a name that is not valid Unicode"),
    "no dtype": (build({"w": {"shape": [2], "data_offsets": [0, 8]}}), "tensor 'w' has no dtype"),
    "unknown field": (build(entry(scale=2)), "tensor 'w' has an unknown field 'scale'"),
    "unknown dtype": (build(entry(dtype="F31")), "tensor 'w' has unknown dtype 'F31'"),
    "dtype is a list": (build(entry(dtype=["F32"])), "tensor 'w' has dtype .'F32'., expected text"),
    "sub-byte dtype": (
        build(entry(dtype="F4")),
        r"tensor 'w' has dtype F4: quantised and sub-byte types .*\nhint: take the weights",
    ),
    "negative size": (
        build(entry(shape=[-2])),
        r"tensor 'w' has shape \[-2\], expected a list of non-negative",
    ),
    "bool size": (build(entry(shape=[True, 2])), r"tensor 'w' has shape \[True, 2\], expected"),
    "float size": (build(entry(shape=[2.0])), r"tensor 'w' has shape \[2.0\], expected"),
    "shape is a number": (build(entry(shape=2)), "tensor 'w' has shape 2, expected"),
    "uncountable": (
        build(entry(shape=[2**40, 2**40, 0])),
        "tensor 'w' has shape .* which is too large",
    ),
    "three offsets": (
        build(entry(data_offsets=[0, 4, 8])),
        "tensor 'w' has data_offsets .0, 4, 8., expected two",
    ),
    "negative offset": (
        build(entry(data_offsets=[-8, 0])),
        "tensor 'w' has data_offsets .-8, 0., expected two",
    ),
    "backwards": (build(entry(data_offsets=[8, 0])), "tensor 'w' ends at 0, before its begin 8"),
    "size and shape differ": (
        build(entry(data_offsets=[0, 4]), bytes(4)),
        r"tensor 'w' has a wrong number of bytes\nexpected 8 for F32 of shape \[2\], found 4",
    ),
    "overlap": (
        build(pair([0, 4], [2, 6])),
        "tensor 'b' overlaps the one before it\nexpected it at byte 4, found it at 2",
    ),
    "same place": (build(pair([0, 4], [0, 4]), bytes(4)), "tensor 'b' overlaps the one before it"),
    "hole": (
        build(pair([0, 4], [8, 12]), bytes(12)),
        "tensor 'b' leaves a hole before it\nexpected it at byte 4, found it at 8",
    ),
    "hole at the start": (
        build(entry(data_offsets=[4, 12]), bytes(12)),
        "tensor 'w' leaves a hole",
    ),
    "data cut short": (
        build({"w": GOOD}, bytes(7)),
        "the file is cut short\ntensor 'w' ends at byte 8 of the data, found 7 bytes",
    ),
    "trailing bytes": (
        build({"w": GOOD}, bytes(9)),
        "the file has trailing bytes\ntensor 'w' ends at byte 8",
    ),
    "trailing bytes without tensors": (build({}, bytes(9)), "trailing bytes\nthere are no tensors"),
    "lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "Git LFS pointer",
    ),
    "web page": (b"<!DOCTYPE html><html></html>", "this is a web page"),
    "gguf": (b"GGUF" + bytes(99), "this is a GGUF file"),
    "zip": (b"PK\x03\x04" + bytes(99), "ends in .safetensors but this is a pt file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file(tmp_path: Path, case: str):
    data, message = BROKEN[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert all(problem.where == str(path) for problem in caught.value.problems)


def test_a_tensor_inside_another_is_one_problem(tmp_path):
    path = tmp_path / "x.safetensors"
    places = {"outer": [0, 12], "inner": [4, 8], "after": [12, 16]}
    fields = {
        name: {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}
        for name, (begin, end) in places.items()
    }
    path.write_bytes(build(fields, bytes(16)))
    with pytest.raises(CheckpointError, match="tensor 'inner' overlaps") as caught:
        open_checkpoint(path)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", ["x.safetensors", "x"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path, protocol, name):
    """The length of the header is the first that a file says, low byte first: 640 is 80 02."""
    (length,) = struct.unpack("<Q", bytes([0x80, protocol]).ljust(8, b"\0"))
    path = tmp_path / name
    text = json.dumps({"w": GOOD}).encode().ljust(length)
    path.write_bytes(build(text, struct.pack("<2f", 1, 2)))
    assert open_checkpoint(path).load("w").tolist() == [1.0, 2.0]


def test_the_unbroken_file_opens(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(build({"w": GOOD}, struct.pack("<2f", 1, 2)))
    assert open_checkpoint(path).load("w").tolist() == [1.0, 2.0]


def test_all_problems_of_the_tensors_are_told_at_once_and_capped(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(build({f"w{i}": {**GOOD, "dtype": "F4", "shape": None} for i in range(8)}))
    with pytest.raises(CheckpointError, match="tensor 'w0' has dtype F4") as caught:
        open_checkpoint(path)
    assert len(caught.value.problems) == 11
    assert caught.value.problems[1].what.startswith("tensor 'w0' has shape None")
    assert str(caught.value.problems[-1]) == "and 6 more"


def test_names_come_in_the_order_of_the_data_and_empty_tensors_keep_their_place(tmp_path):
    path = tmp_path / "x.safetensors"
    fields = {
        "late": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        "empty": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]},
        "early": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    path.write_bytes(build(fields))
    assert open_checkpoint(path).names() == ("early", "empty", "late")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_byte_never_gives_anything_but_a_checkpoint_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    tensors = {"a": torch.ones(2, 2), "b": torch.ones(1, dtype=torch.int8)}
    write_tensors(path, tensors, metadata={"k": "v"}, overwrite=False)
    image = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(image[: data.draw(st.integers(0, len(image)))])
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return
    for name in checkpoint.names():
        assert checkpoint.load(name).shape == checkpoint.info(name).shape


@pytest.mark.parametrize("change", ["truncate", "rewrite"])
def test_a_file_that_changes_while_open_is_refused(tmp_path, change):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(1000)}, metadata={}, overwrite=False)
    checkpoint = open_checkpoint(path)
    with path.open("r+b") as file:
        if change == "truncate":
            file.truncate(500)
        else:
            file.seek(2000)
            file.write(b"12345678")
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        checkpoint.load("a")
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        checkpoint.sha256()


def test_a_file_replaced_while_open_still_gives_the_old_values(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, metadata={}, overwrite=False)
    checkpoint = open_checkpoint(path)
    write_tensors(path, {"a": torch.zeros(3)}, metadata={}, overwrite=True)
    assert checkpoint.load("a").tolist() == [1, 1, 1]


def test_a_link_to_nothing_is_called_that(tmp_path):
    link = tmp_path / "model.safetensors"
    link.symlink_to("gone.safetensors")
    with pytest.raises(CheckpointError, match=r"a link to .*, which is not there"):
        open_checkpoint(link)


def test_a_missing_file_suggests_a_close_name(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"no such file\nhint: did you mean 'model.safetensors'"
    ):
        open_checkpoint(tmp_path / "modle.safetensors")
    with pytest.raises(CheckpointError, match=r"no such folder: .*nowhere"):
        open_checkpoint(tmp_path / "nowhere" / "modle.safetensors")


@pytest.mark.parametrize("name", ["x" * 300 + ".pt", "a\0b.pt", "f.pt/x.pt"])
def test_an_impossible_name_is_a_missing_file(tmp_path, name):
    (tmp_path / "f.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(f"{tmp_path}/{name}")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(tmp_path / "x.safetensors")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_tensors(Path("~/x.safetensors"), {"a": torch.ones(1)}, metadata={}, overwrite=False)
    assert open_checkpoint("~/x.safetensors").path == tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint("~nobody-of-this-name/x.safetensors")


def test_an_unknown_ending_is_told_by_its_content(tmp_path):
    write_tensors(tmp_path / "x.weights", {"a": torch.ones(1)}, metadata={}, overwrite=False)
    torch.save({"a": torch.ones(1)}, tmp_path / "y.weights")
    (tmp_path / "z.weights").write_bytes(b"something else")
    assert open_checkpoint(tmp_path / "x.weights").names() == ("a",)
    assert open_checkpoint(tmp_path / "y.weights").names() == ("a",)
    with pytest.raises(CheckpointError, match=r"known: .safetensors .pt .pth .bin .ckpt"):
        open_checkpoint(tmp_path / "z.weights")


def test_a_misnamed_file_is_refused_with_its_right_ending(tmp_path):
    write_tensors(tmp_path / "x.ckpt", {"a": torch.ones(1)}, metadata={}, overwrite=False)
    with pytest.raises(CheckpointError, match=r"rename it to end in \.safetensors"):
        open_checkpoint(tmp_path / "x.ckpt")


def test_a_key_means_nothing_in_a_safetensors_file(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, metadata={}, overwrite=False)
    with pytest.raises(CheckpointError, match="has no nested parts"):
        open_checkpoint(tmp_path / "x.safetensors", key="model")


def test_a_file_that_may_not_be_read_is_the_machines_fault(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(1)}, metadata={}, overwrite=False)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(MachineError, match=f"cannot read: {os.strerror(errno.EACCES)}"):
        open_checkpoint(path)
