"""Folders of torch.distributed.checkpoint: read whole or in part, and refused where not whole."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import state_dict_saver as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.errors import CheckpointError
from tests.cli.harness import rebasin

WEIGHTS = {
    "0.weight": torch.arange(12.0).reshape(4, 3),
    "0.bias": torch.ones(4, dtype=torch.bfloat16),
    "2.weight": torch.arange(8.0).reshape(2, 4),
    "2.bias": torch.zeros(2),
    "steps": torch.tensor(7),
}


def saved(folder: Path, state: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is only one process
        dcp.save(state, checkpoint_id=folder)
    return folder


def in_pieces(folder: Path, tensor: torch.Tensor, boxes: list[tuple[int, int, int, int]]) -> Path:
    """Write a matrix `w` as boxes (top, bottom, left, right), one file each, as processes do."""
    folder.mkdir()
    chunks, places = [], {}
    for number, (top, bottom, left, right) in enumerate(boxes):
        file = folder / f"__{number}_0.distcp"
        file.write_bytes(b"before")
        with file.open("ab") as sink:
            torch.save(tensor[top:bottom, left:right].clone(), sink)
        start = torch.Size([top, left])
        chunks.append(ChunkStorageMetadata(start, torch.Size([bottom - top, right - left])))
        places[MetadataIndex("w", start)] = _StorageInfo(file.name, 6, file.stat().st_size - 6)
    entry = TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), tensor.shape, chunks)
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata({"w": entry}, None, places)))
    return folder


def test_a_nested_state_is_read_as_a_file_is(tmp_path: Path) -> None:
    average = {name: tensor * 2 for name, tensor in WEIGHTS.items()}
    folder = saved(tmp_path / "a", {"model": WEIGHTS, "ema": average, "epoch": 3})
    for key, expected in [(None, WEIGHTS), ("ema", average)]:
        with open_checkpoint(folder, key=key) as model:
            assert {name: model.load(name).tolist() for name in model.names()} == {
                name: tensor.tolist() for name, tensor in expected.items()
            }
            assert model.info("0.bias").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "boxes",
    [
        [(0, 4, 0, 6)],
        [(0, 1, 0, 6), (1, 4, 0, 6)],
        [(0, 2, 0, 5), (0, 2, 5, 6), (2, 4, 0, 5), (2, 4, 5, 6)],
    ],
)
def test_pieces_are_put_together(boxes: list[tuple[int, int, int, int]], tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    with open_checkpoint(in_pieces(tmp_path / "a", whole, boxes)) as model:
        assert torch.equal(model.load("w"), whole)


@pytest.mark.parametrize(
    "boxes",
    [[(0, 3, 0, 6)], [(0, 3, 0, 6), (2, 4, 0, 6)], [(0, 4, 0, 3), (0, 2, 3, 6)]],
    ids=["missing", "twice", "corner"],
)
def test_pieces_that_do_not_fill_are_refused(
    boxes: list[tuple[int, int, int, int]], tmp_path: Path
) -> None:
    folder = in_pieces(tmp_path / "a", torch.ones(4, 6), boxes)
    with pytest.raises(CheckpointError, match="the pieces of tensor 'w' do not make it whole"):
        open_checkpoint(folder)


def test_damage_is_refused(tmp_path: Path) -> None:
    folder = in_pieces(tmp_path / "a", torch.ones(4, 6), [(0, 2, 0, 6), (2, 4, 0, 6)])
    piece = folder / "__1_0.distcp"
    data = piece.read_bytes()
    piece.write_bytes(data[:-40])
    with open_checkpoint(folder) as model, pytest.raises(CheckpointError, match="cut short"):
        model.load("w")
    piece.write_bytes(bytes(len(data)))
    said = "damaged: a piece of tensor 'w'"
    with open_checkpoint(folder) as model, pytest.raises(CheckpointError, match=said):
        model.load("w")
    (folder / ".metadata").write_bytes(b"\x80\x04cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(CheckpointError, match="damaged index of pieces"):
        open_checkpoint(folder)


def test_a_mixture_of_two_is_written_as_safetensors(tmp_path: Path) -> None:
    saved(tmp_path / "a", {"model": WEIGHTS})
    saved(tmp_path / "b", {"model": {n: t + 2 if n != "steps" else t for n, t in WEIGHTS.items()}})
    done = rebasin("merge", "a", "b", "--strategy", "none", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(merged["0.weight"], WEIGHTS["0.weight"] + 1)
    assert "dcp, 2 files" in rebasin("inspect", "a", cwd=tmp_path).out
