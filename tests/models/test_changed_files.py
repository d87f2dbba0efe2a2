"""Files of the user's that change: what they hold counts, whatever Python has cached of them."""

from __future__ import annotations

import os
import py_compile
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from rebasin_cli.models.target import subject_of_target
from rebasin_cli.models.user.imports import named_object
from rebasin_cli.models.user_functions import load_evaluation, load_loader
from tests.cli.harness import rebasin

WIDTH = "WIDTH = 12\n"


def net(before: str, inside: str = "") -> str:
    layers = "nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)"
    return (
        f"from torch import nn\n{before}\n\n"
        f"def net():\n    {inside}\n    return nn.Sequential({layers})\n"
    )


# Each has a width of 12 somewhere.
LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "the file": ("net.py:net", {"net.py": net(WIDTH)}),
    "a module": ("net:net", {"net.py": net(WIDTH)}),
    "a package": (
        "kit.net:net",
        {"kit/__init__.py": "", "kit/net.py": net("from .size import WIDTH"), "kit/size.py": WIDTH},
    ),
    "beside": ("net.py:net", {"net.py": net("from size import WIDTH"), "size.py": WIDTH}),
    "in a package": (
        "net.py:net",
        {"net.py": net("from kit.b import WIDTH"), "kit/__init__.py": "", "kit/b.py": WIDTH},
    ),
    "in a folder": (
        "net.py:net",
        {"net.py": net("from kit import size", "WIDTH = size.WIDTH"), "kit/size.py": WIDTH},
    ),
    "imported as it runs": (
        "net.py:net",
        {"net.py": net("", "from kit.size import WIDTH"), "kit/size.py": WIDTH},
    ),
    "behind two imports": (
        "net:net",
        {
            "net.py": net("from kit.one import WIDTH"),
            "kit/one.py": "from kit.two import WIDTH\n",
            "kit/two.py": WIDTH,
        },
    ),
}


def written(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def change(folder: Path, old: str, new: str) -> None:
    """Replace text by as much text within the same second, after Python has cached the file."""
    for path in folder.rglob("*.py"):
        py_compile.compile(str(path))
        before, times = path.read_text(), path.stat()
        path.write_text(before.replace(old, new))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert path.stat().st_size == times.st_size


def traced_width(folder: Path, target: str, cache: Path | None = None) -> int:
    env = {"XDG_CACHE_HOME": str((cache or folder) / "cache")}
    done = rebasin("spec", "trace", target, "--json", cwd=folder, env=env)
    assert done.code == 0, done.err
    return int(done.events[0]["groups"][0]["size"])


@pytest.mark.parametrize(("target", "files"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_a_change_is_traced_again(tmp_path: Path, target: str, files: dict[str, str]) -> None:
    written(tmp_path, files)
    assert traced_width(tmp_path, target) == 12
    change(tmp_path, "12", "10")
    assert traced_width(tmp_path, target) == 10


@pytest.mark.parametrize(("target", "files"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_a_change_counts_within_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, files: dict[str, str]
) -> None:
    def width() -> int:
        first: Any = next(subject_of_target(target).build().children())
        return int(first.out_features)

    monkeypatch.chdir(tmp_path)
    for name in ("net", "kit"):  # files written by `merge --preserve-first` import theirs plainly
        monkeypatch.delitem(sys.modules, name, raising=False)
    written(tmp_path, files)
    assert width() == 12
    change(tmp_path, "12", "10")
    assert width() == 10


USES: dict[str, Callable[[str], object]] = {
    "batches": lambda target: next(iter(load_loader(target)())),
    "score": lambda target: load_evaluation(target)(None),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("use", USES)
def test_changed_data_and_evaluations_count(tmp_path: Path, use: str, late: bool) -> None:
    line, target = "from values import VALUE\n", f"{tmp_path / 'user.py'}:{use}"
    head, inside = ("", f"    {line}") if late else (line, "")
    text = f"{head}\n\ndef {use}(*_):\n{inside}    return [VALUE]\n"
    written(tmp_path, {"user.py": text, "values.py": "VALUE = 1\n"})
    before = USES[use](target)
    change(tmp_path, "1", "2")
    assert (before, USES[use](target)) in [(1, 2), ([1], [2])]


@pytest.mark.parametrize("name", ["beside", "imported as it runs"])
def test_the_files_of_another_folder_are_others(tmp_path: Path, name: str) -> None:
    """Nor are they mixed up within one process: each means the neighbours that it has."""
    targets = {}
    for number in (12, 10):
        folder = tmp_path / str(number)
        files = {file: text.replace("12", str(number)) for file, text in LAYOUTS[name][1].items()}
        written(folder, files)
        assert traced_width(folder, "net.py:net", cache=tmp_path) == number
        targets[number] = subject_of_target(f"{folder / 'net.py'}:net")
    for number, found in targets.items():
        first: Any = next(found.build().children())
        assert first.out_features == number


def test_a_file_named_twice_runs_once(tmp_path: Path) -> None:
    written(tmp_path, {"net.py": "class Net:\n    pass\n"})
    target = f"{tmp_path / 'net.py'}:Net"
    assert named_object(target) is named_object(target)


def test_nothing_is_cached_beside_the_users_files(tmp_path: Path) -> None:
    written(tmp_path, LAYOUTS["in a package"][1])
    assert traced_width(tmp_path, "net.py:net") == 12
    assert not list(tmp_path.rglob("__pycache__"))


def test_what_is_installed_is_loaded_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timeit", "iniconfig"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for target in ("timeit:Timer", "iniconfig:IniConfig"):
        module = sys.modules[named_object(target).__module__]
        assert type(module.__loader__) is SourceFileLoader
