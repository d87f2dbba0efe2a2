"""What `rebasin merge --preserve-first` refuses, and what it says."""

import pytest

from tests.cli.harness import rebasin
from tests.commands.merge.preserve_first.preserving import PATHS, built, classes, preserved


@pytest.fixture
def models(tmp_path):
    """Write the classes, and give what writes checkpoints of one of them."""
    with classes(tmp_path) as write:
        yield write


@pytest.mark.parametrize(
    ("first", "message", "hint"),
    [
        ("0", "keeps 0 of 3 layers", "a number from 1 to 2"),
        ("3", "keeps 3 of 3 layers", "at most 2 can be kept"),
        ("net.9", "--preserve-first 'net.9' names no layer", "did you mean 'net."),
        ("net.*", "keeps 3 of 3 layers", "behind the last there is nothing to merge"),
    ],
)
def test_layers_that_cannot_be_kept_are_refused(tmp_path, models, first, message, hint):
    models("Net")
    done = preserved(tmp_path, first)
    assert done.code == 2
    assert message in done.err
    assert hint in done.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--method", "zipit"), "--preserve-first permutes units and averages"),
        (("--renormalize", "reset"), "--renormalize does not go with --preserve-first"),
    ],
)
def test_other_ways_to_merge_are_refused_beside_it(tmp_path, models, argv, message):
    models("Net")
    done = preserved(tmp_path, "1", *argv)
    assert done.code == 2
    assert message in done.err


def test_the_class_is_needed(tmp_path, models):
    models("Net")
    done = rebasin("merge", *PATHS, "--preserve-first", "1", cwd=tmp_path)
    assert done.code == 2
    assert "--preserve-first needs the class of the models" in done.err
    assert "--model file.py:Class" in done.err


def test_a_model_that_returns_something_else_each_time_is_refused(tmp_path, models):
    models("Net")
    done = preserved(tmp_path, "1", "--strategy", "none", model="net.py:Random")
    assert done.code in (2, 3)
    assert "cannot be cut" in done.err or "do not compute what it does" in done.err
    assert not (tmp_path / "merged.safetensors").exists()


def test_neither_file_is_replaced_unless_asked(tmp_path, models):
    models("Net")
    (tmp_path / "merged.py").write_text("mine")
    argv = ("1", "--strategy", "none")
    assert "merged.py exists" in preserved(tmp_path, *argv).err
    kept = preserved(tmp_path, *argv, "--no-clobber")
    assert (kept.code, kept.lines) == (0, ["merged.safetensors"])
    assert (tmp_path / "merged.py").read_text() == "mine"
    assert not (tmp_path / "merged.safetensors").exists()
    assert preserved(tmp_path, *argv, "--force").code == 0
    built(tmp_path / "merged.py", tmp_path / "merged.safetensors")
