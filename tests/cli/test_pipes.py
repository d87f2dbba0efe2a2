"""Commands in a row: real shells, real pipes, and streams that are gone."""

import json
import os
import subprocess

import pytest

from tests.cli.build import load, mlp, pair, same, save
from tests.cli.harness import COMMAND, plain_environment, rebasin, shell

ALIGN = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")


def piped(*argv, cwd, then):
    """Run a command and then another one on its output."""
    first = rebasin(*argv, cwd=cwd)
    return rebasin(*then, cwd=cwd, stdin=first.out.encode())


def test_ninety_nine_points_are_ninety_nine_lines(tmp_path):
    pair(tmp_path)
    script = "rebasin align a.safetensors b.safetensors | rebasin lerp --steps 99 | wc -l"
    done = shell(f"set -o pipefail; {script}", tmp_path)
    assert (done.code, done.out.strip()) == (0, "99"), done.err


def test_a_reader_that_leaves_after_one_line_is_no_error(tmp_path):
    pair(tmp_path)
    script = "rebasin align -q a.safetensors b.safetensors --spec mlp | head -1"
    done = shell(f'{script}; echo "${{PIPESTATUS[0]}}"', tmp_path)
    path, status = done.lines
    assert path == "a.safetensors"
    assert status in ("0", "141")
    assert done.err == ""


@pytest.mark.parametrize(
    "words", ["inspect a.safetensors", "spec list", "spec show mlp", "spec init a.safetensors",
              "align a.safetensors b.safetensors --spec mlp -n", "--help", "align --help"]
)  # fmt: skip
def test_a_reader_that_never_reads_is_told_apart_from_failure(tmp_path, words):
    pair(tmp_path)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as stdout:
        done = subprocess.run(
            [*COMMAND, *words.split()],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=plain_environment(),
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_device_as_stdout_is_the_machines_fault(tmp_path):
    pair(tmp_path)
    done = shell("rebasin inspect a.safetensors > /dev/full", tmp_path)
    assert done.code == 4
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err


@pytest.mark.parametrize("words", ["inspect a.safetensors", "spec list"])
def test_a_closed_stdout_is_no_bug(tmp_path, words):
    pair(tmp_path)
    done = shell(f"rebasin {words} >&-", tmp_path)
    assert "Traceback" not in done.err
    assert done.code in (0, 141)


def test_talk_does_not_move_to_stdout_when_stderr_is_closed(tmp_path):
    pair(tmp_path)
    done = shell("rebasin align a.safetensors b.safetensors --spec mlp 2>&-", tmp_path)
    assert done.lines == ["a.safetensors", "b.aligned.safetensors"]
    assert done.code == 0


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
