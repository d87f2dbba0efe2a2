"""Tensors of PyTorch files: read by position, where touching pages of a mapping may kill."""

import os
import pickle
import sys
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict_saver import save as save_pieces

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.torch_format import torch_file
from rebasin_cli.checkpoint.writing.disk import MappedPart, OpenFile
from rebasin_cli.errors import CheckpointError


def saved(path, value):
    torch.save(value, path)
    return path


def test_a_file_cut_short_while_a_tensor_is_read_is_an_error_and_no_signal(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(3_000_000)})
    checkpoint = open_checkpoint(path)
    unchanged = OpenFile.require_unchanged

    def cut_after(file):
        unchanged(file)
        os.truncate(path, 5000)

    monkeypatch.setattr(OpenFile, "require_unchanged", cut_after)
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        checkpoint.load("a")


def test_a_file_replaced_while_it_is_mapped_still_gives_the_old_values(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(5000)})
    checkpoint = open_checkpoint(path)
    saved(tmp_path / "y.pt", {"a": torch.zeros(5000)}).replace(path)
    assert torch.equal(checkpoint.load("a"), torch.ones(5000))


@pytest.mark.parametrize("form", ["x.pt", "x.safetensors", "pieces"])
def test_who_opens_a_file_that_another_process_works_on_gets_the_same_or_none(tmp_path, form):
    def store(path, count):
        write = {"x.pt": torch.save, "pieces": lambda s, p: save_pieces(s, checkpoint_id=p)}
        write.get(form, save_file)({"a": torch.ones(count)}, path)

    path = tmp_path / form
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of saving without a group of processes
        store(path, 50)
        sent = pickle.dumps(open_checkpoint(path))
        assert torch.equal(pickle.loads(sent).load("a"), torch.ones(50))
        store(path, 51)  # times alone may be the same, within some milliseconds
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        pickle.loads(sent)


@pytest.mark.parametrize("mapped", [True, False])
def test_tensors_read_by_position_are_those_that_are_mapped(tmp_path, monkeypatch, mapped):
    big = torch.arange(600, dtype=torch.float64).reshape(20, 30)
    state = {
        "whole": big,
        "turned": big.t(),
        "columns": big[:, ::3],
        "rows": big[5:7],
        "one row often": big[3].expand(4, 30),
        "small": torch.arange(7, dtype=torch.bfloat16),
        "conjugate": torch.randn(3, 4, dtype=torch.complex64).conj(),
        "number": torch.tensor(3),
        "empty": torch.empty(0, 4),
    }
    path = saved(tmp_path / "x.pt", state)
    if mapped:
        monkeypatch.setattr(MappedPart, "at", lambda address, inode: None)
    touched = []
    monkeypatch.setattr(torch_file, "forget_pages", lambda *where: touched.append(where))
    with open_checkpoint(path) as checkpoint:
        for name, values in state.items():
            found = checkpoint.load(name)
            assert found.dtype == values.dtype
            assert torch.equal(found, values)
    assert len(touched) == (len(state) if mapped else 2)  # what is conjugate, and what is empty


def test_numbers_in_the_order_of_other_machines_are_turned_over(tmp_path):
    values = torch.arange(1000, dtype=torch.float32)
    path = saved(tmp_path / "x.pt", {"a": values, "b": values + 0})  # on one page of memory
    other = values.numpy().byteswap().tobytes()
    turned = tmp_path / "y.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(turned, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/byteorder"):
                content = b"big" if sys.byteorder == "little" else b"little"
            new.writestr(name, other if "/data/" in name else content)
    with open_checkpoint(turned) as checkpoint:
        assert all(torch.equal(checkpoint.load(name), values) for name in "aba")
