"""PyTorch files that are damaged or want to run code: refused, with the reason, and not run."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


class Danger:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_code_in_a_file_is_named_and_not_run(tmp_path, zipped, nested):
    trace = tmp_path / "it-ran"
    value = {"state_dict": {**STATE, "x": Danger(trace)}} if nested else Danger(trace)
    path = saved(tmp_path / "x.pt", value, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"would run code\nit asks for .*getattr") as caught:
        open_checkpoint(path)
    assert "torch.save(model.state_dict(), FILE)" in str(caught.value)
    assert "weights_only=False" not in str(caught.value)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file of this test is harmless, so it proves nothing"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_refused_by_the_name_of_its_class(tmp_path, zipped):
    path = saved(tmp_path / "x.pt", torch.nn.Linear(2, 2), _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"would run code\nit asks for .*Linear"):
        open_checkpoint(path)


def test_a_plain_pickle_that_runs_code_is_refused(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(Danger(tmp_path / "it-ran"), protocol=4))
    with pytest.raises(CheckpointError, match=r"it asks for pathlib.Path.touch"):
        open_checkpoint(path)
    assert not (tmp_path / "it-ran").exists()


def test_damaged_files_are_refused(tmp_path):
    image = saved(tmp_path / "x.pt", STATE).read_bytes()
    for length in (0, 1, 4, 100, len(image) // 2, len(image) - 1):
        (tmp_path / "x.pt").write_bytes(image[:length])
        with pytest.raises(CheckpointError, match=r"empty|damaged PyTorch file|not a readable"):
            open_checkpoint(tmp_path / "x.pt")


def test_damaged_legacy_files_are_refused(tmp_path):
    path = saved(tmp_path / "x.pt", STATE, _use_new_zipfile_serialization=False)
    image = path.read_bytes()
    for length in range(1, len(image) - 1, 40):
        path.write_bytes(image[:length])
        with pytest.raises(CheckpointError, match="not a readable PyTorch file"):
            open_checkpoint(path)


def test_other_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="this zip archive is not a PyTorch file"):
        open_checkpoint(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        archive.writestr("y/constants.pkl", "")
        archive.writestr("y/data.pkl", "")
    with pytest.raises(CheckpointError, match="this is a TorchScript program"):
        open_checkpoint(tmp_path / "y.pt")
