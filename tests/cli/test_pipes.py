"""Commands in a row: real shells, real pipes, and streams that are gone."""

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
import typer

from rebasin_cli.cli.runner import fail
from rebasin_cli.errors import MachineError
from tests.cli.build import load, mlp, pair, same, save
from tests.cli.harness import rebasin, shell

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")


def piped(*argv, cwd, then):
    """Run a command and then another one on its output."""
    first = rebasin(*argv, cwd=cwd)
    return rebasin(*then, cwd=cwd, stdin=first.out.encode())


@pytest.mark.slow
def test_ninety_nine_points_are_ninety_nine_lines(tmp_path):
    pair(tmp_path)
    script = "rebasin align a.safetensors b.safetensors | rebasin lerp --steps 99 | wc -l"
    done = shell(f"set -o pipefail; {script}", tmp_path)
    assert (done.code, done.out.strip()) == (0, "99"), done.err


@pytest.mark.slow
def test_a_reader_that_leaves_after_one_line_is_no_error(tmp_path):
    pair(tmp_path)
    script = "rebasin align -q a.safetensors b.safetensors --spec mlp | head -1"
    done = shell(f'{script}; echo "${{PIPESTATUS[0]}}"', tmp_path)
    path, status = done.lines
    assert path == "a.safetensors"
    assert status in ("0", "141")
    assert done.err == ""


@pytest.mark.parametrize(
    "words",
    [
        "inspect a.safetensors",
        "diff a.safetensors b.safetensors --json",
        "align a.safetensors b.safetensors --spec mlp",
        "align a.safetensors b.safetensors --spec mlp -n",
        "merge nowhere.pt nothing.pt --json",
        "spec list",
        "spec show mlp",
        "spec init a.safetensors",
        "--help",
        "--version",
        "align --help",
    ],
)
def test_a_reader_that_is_gone_is_told_apart_from_failure(tmp_path, words):
    pair(tmp_path)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as stdout:
        done = rebasin(*words.split(), cwd=tmp_path, stdout=stdout.fileno())
    assert done.code == 141
    assert done.err == "" or "nowhere.pt" in done.err


def test_an_option_of_one_letter_may_be_written_as_a_long_one(tmp_path):
    pair(tmp_path)
    words = ("lerp", "a.safetensors", "b.safetensors", "--at=0.5", "-o=half.safetensors")
    assert rebasin(*words, cwd=tmp_path).lines == ["half.safetensors"]
    paths = ("a.safetensors", "--", "-o=half.safetensors")  # a file's name, and no option
    assert "-o=half.safetensors" in rebasin("inspect", *paths, cwd=tmp_path).err


@pytest.mark.parametrize("words", ["inspect a.safetensors", "spec list", "spec show mlp"])
def test_a_full_device_as_stdout_is_the_machines_fault(tmp_path, words):
    pair(tmp_path)
    with Path("/dev/full").open("wb") as full:
        done = rebasin(*words.split(), cwd=tmp_path, stdout=full.fileno())
    assert done.code == 4
    assert os.strerror(errno.ENOSPC) in done.err
    assert "Traceback" not in done.err


def test_an_error_that_stdout_does_not_take_keeps_its_exit_code(monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, text)

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(typer.Exit, match="4"):
        fail("align", MachineError("no room"), json_wanted=True)


@pytest.mark.parametrize("words", ["inspect a.safetensors", "spec list", "merge no.pt nor.pt"])
def test_a_closed_stdout_is_no_bug(tmp_path, words):
    pair(tmp_path)
    done = rebasin(*words.split(), cwd=tmp_path, closed=[1])
    assert "Traceback" not in done.err
    assert done.code in (0, 3, 141)


@pytest.mark.parametrize(
    "words", ["align a.safetensors b.safetensors --spec mlp -v", "merge no.pt"]
)
def test_talk_does_not_move_to_stdout_when_stderr_is_closed(tmp_path, words):
    pair(tmp_path)
    done = rebasin(*words.split(), cwd=tmp_path, closed=[2])
    expected = ["a.safetensors", "b.aligned.safetensors"] if "align" in words else []
    assert (done.code, done.lines) == (0 if expected else 3, expected)


def test_a_closed_stdin_has_no_models(tmp_path):
    done = rebasin("merge", cwd=tmp_path, closed=[0])
    assert done.code == 2
    assert "at least two models" in done.err


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_merge_reads_what_align_prints(tmp_path, flag):
    pair(tmp_path)
    done = piped(*ALIGN, *flag, cwd=tmp_path, then=("merge", "-o", "soup.safetensors"))
    assert (done.code, done.lines) == (0, ["soup.safetensors"]), done.err
    one, other = (load(tmp_path / f"{name}.safetensors") for name in ("a", "b.aligned"))
    mean = {name: (one[name] + other[name]) / 2 for name in one}
    assert same(load(tmp_path / "soup.safetensors"), mean)


def test_merge_sees_that_its_models_lie_in_one_basin_and_says_so(tmp_path):
    pair(tmp_path)
    done = piped(*ALIGN, cwd=tmp_path, then=("merge",))
    assert "one basin already" in done.err


@pytest.mark.parametrize("part", [("--skip", "0.*"), ("--only", "6.*")], ids=["skip", "only"])
def test_a_model_that_was_aligned_in_part_does_not_pass_for_aligned(tmp_path, part):
    pair(tmp_path)
    done = piped(*ALIGN, *part, cwd=tmp_path, then=("merge",))
    assert "one basin already" not in done.err
    assert "aligned to the others" in done.err


def test_merge_of_models_without_provenance_aligns_them(tmp_path):
    pair(tmp_path)
    done = rebasin("merge", "a.safetensors", "b.safetensors", "--json", cwd=tmp_path)
    assert done.events[0]["objective"]["after"] > done.events[0]["objective"]["before"]


def test_paths_may_end_in_nul(tmp_path):
    pair(tmp_path)
    (tmp_path / "b.safetensors").rename(tmp_path / "two\nlines.safetensors")
    stdin = b"a.safetensors\0two\nlines.safetensors\0"
    done = rebasin("merge", "-0", cwd=tmp_path, stdin=stdin)
    assert (done.code, done.lines) == (0, ["merged.safetensors"]), done.err


def test_empty_lines_and_carriage_returns_on_stdin_do_not_matter(tmp_path):
    pair(tmp_path)
    done = rebasin("merge", cwd=tmp_path, stdin=b"\r\na.safetensors\r\n\nb.safetensors")
    assert done.code == 0, done.err


def test_models_on_the_command_line_win_over_stdin(tmp_path):
    pair(tmp_path)
    done = rebasin("merge", "a.safetensors", "b.safetensors", cwd=tmp_path, stdin=b"no.pt\n")
    assert done.code == 0, done.err


def test_an_align_that_failed_does_not_become_a_smaller_merge(tmp_path):
    pair(tmp_path)
    save(tmp_path / "bad.safetensors", {n: t / 0 for n, t in mlp(1).items()})
    argv = (*ALIGN, "bad.safetensors", "--json")
    done = piped(*argv, cwd=tmp_path, then=("merge", "--json"))
    assert done.code == 2
    assert "the command before this one failed" in done.err
    assert json.loads(done.lines[0])["event"] == "error"
    assert not (tmp_path / "merged.safetensors").exists()


LISTS = {
    "UTF-8": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, the other way round": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "two lists in a row": lambda text: b"".join(
        line.encode("utf-8-sig") for line in text.splitlines(keepends=True)
    ),
}


@pytest.mark.parametrize("form", LISTS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_a_byte_order_mark_on_stdin_is_no_part_of_a_path(tmp_path, form, end):
    save(tmp_path / "ä.pt", mlp(1))
    save(tmp_path / "b.pt", mlp(2))
    if form == "two lists in a row" and end == "\0":
        pytest.skip("a list of NULs has no lines")
    listed = LISTS[form](f"ä.pt{end}b.pt{end}")
    null = ["-0"] if end == "\0" else []
    done = rebasin("merge", *null, "--strategy", "none", "-n", cwd=tmp_path, stdin=listed)
    assert done.code == 0, done.err
    assert [entry["path"] for entry in json.loads(done.out)["inputs"]] == ["ä.pt", "b.pt"]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (b"a.pt\0b.pt\0", "stdin: the paths end in NUL\nhint: -0 reads them so"),
        (b'{"path": "a.pt"}\n', 'stdin: not a path and not an event: {"path": "a.pt"}'),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, listed, said):
    done = rebasin("merge", cwd=tmp_path, stdin=listed)
    assert done.code == 2
    assert said in done.err


def test_a_list_that_is_not_what_its_mark_says_is_refused(tmp_path):
    done = rebasin("merge", cwd=tmp_path, stdin=b"\xff\xfea")
    assert done.code == 2
    assert "stdin: a list of files that is not utf-16" in done.err
