"""Files that hold more than plain data: read where that is harmless, or with inert placeholders."""

import argparse
import collections
import datetime
import os
import pickle
import pickletools
import subprocess
import types
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rebasin_cli.checkpoint.opened_files import Reading
from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.checkpoint.torch_format.opcodes import survey
from rebasin_cli.checkpoint.torch_format.unpickle import load_container
from rebasin_cli.checkpoint.writing.writer import write_checkpoint
from rebasin_cli.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Config:
    def __init__(self, **settings: object) -> None:
        self.__dict__.update(settings)


class Attributes(dict):
    """A dict of a foreign class, as hyper-parameters often are."""


class Trail(list):
    """A list of a foreign class."""


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Revived(Config):
    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["path"]).touch()


def saved(path: Path, value: object, *, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def rewritten(source: Path, target: Path) -> Any:
    """Copy a file through the writer, ignoring classes, and load what came of it."""
    with open_checkpoint(source, reading=Reading(ignoring=True)) as opened:
        infos = [opened.info(name) for name in opened.names()]
        write_checkpoint(target, infos, opened.load, opened.layout, metadata={}, overwrite=False)
    return load_container(target).value


HARMLESS = {
    "defaultdict": defaultdict(list, loss=[0.3]),
    "defaultdict of defaultdicts": defaultdict(defaultdict, a=defaultdict(int, b=1)),
    "deque": deque([1, 2], maxlen=3),
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("aab"),
    "size": torch.Size([2, 3]),
    "numpy": np.float32(0.5),
    "options": argparse.Namespace(lr=0.1, history=defaultdict(list, x=[1])),
    "simple": types.SimpleNamespace(a=1),
    "time": datetime.datetime(2024, 5, 1, 12),
    "span": datetime.timedelta(seconds=3),
    "frozen": frozenset([1, 2]),
    "nested": [(defaultdict(list, a=[1]), 2)],
    "version": torch.__version__,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_values_beside_the_weights_are_read_as_they_were(tmp_path, kind, zipped):
    value = {"state_dict": STATE, "beside": HARMLESS[kind]}
    found = load_container(saved(tmp_path / "x.pt", value, zipped=zipped)).value
    assert found["beside"] == HARMLESS[kind]
    assert type(found["beside"]) is type(HARMLESS[kind])
    assert torch.equal(found["state_dict"]["a.bias"], STATE["a.bias"])


def test_one_container_in_two_places_stays_one(tmp_path):
    shared = defaultdict(list, a=[1])
    path = saved(tmp_path / "x.pt", {"model": STATE, "x": shared, "y": [shared]})
    found = load_container(path).value
    assert found["x"] is found["y"][0]


FOREIGN = {
    "object": Config(lr=0.1),
    "dict": Attributes(lr=0.1),
    "list": Trail([1, 2]),
    "inside a list": [1, Config()],
    "inside a tuple": (Config(), 2),
    "under a key that is no text": {1: Config()},
    "inside options": argparse.Namespace(model=Config(), lr=1),
    "a class itself": Config,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_objects_are_refused_by_name_then_ignored_and_told(tmp_path, kind, zipped):
    value = {"state_dict": STATE, "hyper": {"cfg": FOREIGN[kind], "epoch": 3}}
    path = saved(tmp_path / "x.ckpt", value, zipped=zipped)
    with pytest.raises(CheckpointError, match=r"it asks for [\w.]*(Config|Attributes|Trail)") as e:
        open_checkpoint(path)
    assert "--ignore-classes" in str(e.value)
    with open_checkpoint(path, reading=Reading(ignoring=True)) as opened:
        assert opened.names() == ("a.weight", "a.bias")
        assert any(place.startswith("hyper.cfg") for place in opened.dropped)
        assert all(__name__.rpartition(".")[2] in name for name in opened.dropped.values())
    again = rewritten(path, tmp_path / "y.ckpt")
    assert again["hyper"]["epoch"] == 3
    assert torch.equal(again["state_dict"]["a.weight"], STATE["a.weight"])
    names = survey(_pickle_of(tmp_path / "y.ckpt"), 1).names
    assert not any("rebasin" in name or "test_ignored" in name for name in names)


def _pickle_of(path: Path) -> Any:
    import io
    import zipfile

    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        return io.BytesIO(archive.read(name))


def hostile(trace: Path) -> dict[str, object]:
    """Return objects whose pickles run something when they are loaded the unsafe way."""
    return {
        "os.system": Calls(os.system, f"touch {trace}"),
        "eval": Calls(eval, f"__import__('os').mkdir({str(trace)!r})"),
        "exec": Calls(exec, f"__import__('os').mkdir({str(trace)!r})"),
        "subprocess": Calls(subprocess.call, ["touch", str(trace)]),
        "pathlib": Calls(Path.touch, trace),
        "getattr": Calls(getattr, trace, "touch"),
        "setstate": Revived(path=str(trace)),
        "nested": Attributes(x=Calls(os.system, f"touch {trace}")),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", list(hostile(Path())))
def test_nothing_of_a_hostile_file_runs(tmp_path, kind, zipped):
    trace = tmp_path / "it-ran"
    value = {"state_dict": STATE, "x": hostile(trace)[kind]}
    path = saved(tmp_path / "x.pt", value, zipped=zipped)
    for ignoring in (False, True):
        try:
            opened = open_checkpoint(path, reading=Reading(ignoring=ignoring))
        except CheckpointError:
            continue
        assert ignoring
        assert "x" in opened.dropped
    assert not trace.exists()
    if kind != "getattr":
        torch.load(path, weights_only=False)
        assert trace.exists(), "the file of this test is harmless, so it proves nothing"


def test_a_placeholder_for_a_function_is_no_function(tmp_path):
    """A name that is called gives an inert object, whatever the arguments."""
    path = saved(tmp_path / "x.pt", {"model": STATE, "x": Calls(subprocess.getoutput, "id")})
    found = load_container(path, ignoring=True)
    assert found.dropped == {"x": "subprocess.getoutput"}
    assert "x" not in found.value


def test_weights_that_are_foreign_objects_are_not_lost_silently(tmp_path):
    path = saved(tmp_path / "x.pt", {"state_dict": {**STATE, "b": Config()}})
    with open_checkpoint(path, reading=Reading(ignoring=True)) as opened:
        assert opened.dropped == {"state_dict.b": f"{__name__}.Config"}


def test_a_whole_pickled_model_is_told_from_one_with_weights(tmp_path):
    path = saved(tmp_path / "x.pt", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="this is a pickled object, not its weights") as error:
        open_checkpoint(path)
    assert "--ignore-classes" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"torch.save\(model.state_dict\(\), FILE\)"):
        open_checkpoint(path, reading=Reading(ignoring=True))


def test_what_torch_cannot_read_is_told_in_its_words_and_not_called_cut_short(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps({"a": 1.5}, protocol=5))
    with pytest.raises(CheckpointError, match="torch says: ") as error:
        open_checkpoint(path)
    assert "cut short" not in str(error.value)


def test_the_survey_names_what_the_table_of_instructions_names(tmp_path):
    data = pickle.dumps([Config(), Attributes(a=1), Trail([1]), os.getcwd], protocol=4)
    import io

    found = survey(io.BytesIO(data), 1)
    assert found.whole
    assert found.filled == {f"{__name__}.Attributes": "items", f"{__name__}.Trail": "elements"}
    assert set(found.names) >= {f"{__name__}.Config", "posix.getcwd"}
    pickletools.dis(data, out=io.StringIO())
