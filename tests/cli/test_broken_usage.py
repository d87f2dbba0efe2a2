"""Commands that contradict themselves or their folder: refused before anything is done."""

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.broken import Row, refused, rows, writes
from tests.cli.build import mlp, save, sharded
from tests.cli.harness import image, rebasin

PAIR = "a.safetensors b.safetensors --spec mlp"
CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


def existing(name):
    return writes(name, b"precious")


def third(folder):
    save(folder / "c.safetensors", mlp(3))


def twin(folder):
    shutil.copy(folder / "b.safetensors", folder / "b.pt.safetensors")
    save(folder / "b.pt", mlp(2))


def linked(folder):
    (folder / "link.safetensors").symlink_to("a.safetensors")


OUTPUTS = rows(
    Row("output is an input", f"align {PAIR} -o b.safetensors", 2, ("b.safetensors", "--in-place")),
    Row(
        "output is an input even with --force",
        f"merge {PAIR} -o a.safetensors --force",
        2,
        ("a.safetensors", "--in-place"),
    ),
    Row(
        "output is a link to an input",
        f"merge {PAIR} -o link.safetensors --force",
        2,
        ("link.safetensors is one of the inputs", "--in-place"),
        linked,
    ),
    Row(
        "output exists",
        f"align {PAIR}",
        2,
        ("b.aligned.safetensors exists", "--force"),
        existing("b.aligned.safetensors"),
    ),
    Row("merged exists", f"merge {PAIR}", 2, ("merged", "--force"), existing("merged.safetensors")),
    Row(
        "output leads round to itself",
        f"align {PAIR} -o round.safetensors --force",
        2,
        ("round.safetensors is a link that leads to itself",),
        lambda folder: (folder / "round.safetensors").symlink_to("round.safetensors"),
    ),
    Row("output without a name", f"align {PAIR} -o ''", 2, ("an empty word stands behind -o",)),
    Row("output of no value", f"align {PAIR} --out=", 2, ("--out= has no value",)),
    Row("output to stdout", f"align {PAIR} -o -", 2, ("-o - names no file",)),
    Row("output of another program", f"merge {PAIR} -o x.onnx", 2, ("x.onnx", ".safetensors")),
    Row("replaced and kept", f"merge {PAIR} -f --no-clobber", 2, ("--force", "--no-clobber")),
    Row("output folder missing", f"align {PAIR} -o no/x.safetensors", 2, ("the folder no",)),
    Row("output folder missing in lerp", f"lerp {PAIR} --steps 2 -o no/deep", 2, ("no",)),
    Row(
        "parent is a file",
        f"align {PAIR} -o a.safetensors/x.safetensors",
        2,
        ("a.safetensors",),
    ),
    Row(
        "folder for several is a file",
        "align a.safetensors b.safetensors c.safetensors --spec mlp -o good.yaml",
        2,
        ("good.yaml",),
        third,
    ),
    Row("unwritable folder", f"align {PAIR} -o /proc/x.safetensors", 4, ("/proc/x.safetensors",)),
    Row("output is a device", f"align {PAIR} -o /dev/full --force", 2, ("/dev/full",)),
    Row(
        "full disk",
        f"align {PAIR}",
        4,
        ("b.aligned.safetensors", "cannot write"),
        limits={"RLIMIT_FSIZE": 500},
    ),
    Row(
        "full disk for a folder",
        "align a bad --spec mlp",
        4,
        (" bad.aligned/", "cannot write"),
        lambda folder: [sharded(folder / name, mlp(3), {}) for name in ("a", "bad")],
        limits={"RLIMIT_FSIZE": 500},
    ),
    Row(
        "full disk for a torch file",
        f"align {PAIR} --format pt",
        4,
        ("b.aligned.pt", "cannot write"),
        limits={"RLIMIT_FSIZE": 500},
    ),
    Row(
        "list of what is finished is a device",
        f"merge {PAIR} --resume /dev/zero",
        2,
        ("/dev/zero",),
    ),
    Row(
        "list of what is finished is a pipe",
        f"align {PAIR} --resume pipe",
        2,
        ("pipe is not a regular file",),
        lambda folder: os.mkfifo(folder / "pipe"),
    ),
    Row(
        "two results of one name",
        f"align {PAIR} b.pt --format pt",
        2,
        ("2 results would go to", "b.aligned.pt"),
        twin,
    ),
    Row(
        "permutation over the result",
        f"align {PAIR} -o x.safetensors --save-permutation x.safetensors",
        2,
        ("x.safetensors",),
    ),
    Row(
        "permutation over the reference",
        f"align {PAIR} --save-permutation a.safetensors --force",
        2,
        ("a.safetensors",),
    ),
)

VALUES = rows(
    Row("a way to combine as a method", f"merge {PAIR} --method ties", 2, ("for merge --combine",)),
    Row("weights typed apart", f"merge {PAIR} -w 0.7 0.3", 3, ("0.3: no such file", "one word")),
    Row(
        "arguments that are no JSON",
        "align a.safetensors b.safetensors --model n.py:N --model-args {x:1}",
        2,
        ("both kinds",),
    ),
    Row("unknown device", f"align {PAIR} --device bogus", 2, ("'bogus'", "cpu")),
    Row("device with an odd number", f"align {PAIR} --device cuda:x", 2, ("'cuda:x'",)),
    Row("device with no number", f"align {PAIR} --device cpu:", 2, ("'cpu:'",)),
    Row("method of another command", f"verify {PAIR} --method activationz", 2, ("(align,",)),
    Row("unknown dtype", f"align {PAIR} --dtype bogus", 2, ("'bogus'", "bfloat16")),
    Row("unknown dtype in a dry run", f"merge {PAIR} --dtype bogus -n", 2, ("'bogus'",)),
    Row("unknown format", f"align {PAIR} --format bogus", 2, ("'bogus'", "safetensors")),
    Row("unknown strategy", f"merge {PAIR} --strategy stars", 2, ("'stars'", "'star'")),
    Row("unknown mode", f"lerp {PAIR} --steps 1 --mode cubic", 2, ("'cubic'", "slerp")),
    Row("unknown start", f"align {PAIR} --start bogus", 2, ("bogus", "identity")),
    Row("start file missing", f"align {PAIR} --start no.safetensors", 3, ("no.safetensors",)),
    Row("memory that is no size", f"align {PAIR} --max-memory lots", 2, ("'lots'", "8GB")),
    Row("memory with two points", f"align {PAIR} --max-memory 1.2.3GB", 2, ("1.2.3GB",)),
    Row("memory beyond numbers", f"align {PAIR} --max-memory 1e999", 2, ("1e999",)),
    Row("seed beyond numbers", f"align {PAIR} --seed {10**30}", 2, ("--seed",)),
    Row("set without value", f"align {PAIR} --set heads", 2, ("'heads'", "heads=12")),
    Row("set with an odd digit", f"align {PAIR} --set heads=²", 2, ("heads=",)),
    Row("unknown size", f"align {PAIR} --set heads=2", 3, ("heads",)),
    Row("negative jobs", f"align {PAIR} -j -1", 2, ("--jobs",)),
    Row("no memory", f"align {PAIR} --max-memory 0", 2, ("a size of 0 leaves no room",)),
    Row(
        "format against the ending",
        f"align {PAIR} -o x.pt --format safetensors",
        2,
        ("x.pt", "safetensors"),
    ),
    Row("unknown option", f"align {PAIR} --forse", 2, ("--forse", "--force")),
    Row("unknown command", "algin a b", 2, ("algin", "align")),
)

MODELS = rows(
    Row(
        "a function without a name",
        "spec trace torch.nn:Identity --input net.py",
        2,
        ("'net.py' names nothing in a file", "file.py:NAME"),
    ),
    Row(
        "a shape where a function is named",
        "spec trace torch.nn:Identity --input 2,33",
        2,
        ("'2,33' is a shape", "--input-shape 2,33"),
    ),
    Row("batches of no data", f"align {PAIR} --batches 2", 2, ("--batches", "needs --data")),
    Row("no model", "align", 2, ("a reference and at least one model",)),
    Row("one model to align", "align a.safetensors", 2, ("at least one model",)),
    Row("one model to merge", "merge a.safetensors", 2, ("at least two models",)),
    Row("one model to lerp", "lerp a.safetensors --steps 1", 2, ("two models, not 1",)),
    Row(
        "three models to lerp",
        f"lerp {PAIR} c.safetensors --steps 1",
        2,
        ("two models, not 3", "--chain"),
        third,
    ),
    Row(
        "reference not among the models",
        f"merge {PAIR} --ref c.safetensors",
        2,
        ("c.safetensors is not among the models",),
        third,
    ),
    Row("too few weights", f"merge {PAIR} -w 1", 2, ("1 weight for 2 models",)),
    Row("too many weights", f"merge {PAIR} -w 1,2,3", 2, ("3 weights for 2 models",)),
    Row("weights without a sum", f"merge {PAIR} -w 1,-1", 2, ("add up to zero",)),
    Row("zero weights", f"merge {PAIR} -w 0,0", 2, ("add up to zero",)),
    Row("a weight of words", f"merge {PAIR} -w half,half", 2, ("'half'", "0.25,0.5")),
    Row("a weight that is no number", f"merge {PAIR} -w nan,1", 2, ("not a finite number",)),
    Row("weights beyond numbers", f"merge {PAIR} -w 1e308,1e308", 2, ("weights",)),
    Row("place beyond numbers", f"lerp {PAIR} --at 1e300", 2, ("1e+300",)),
    Row(
        "more steps than names",
        f"lerp {PAIR} --steps 100000000",
        2,
        ("--steps", "100000000"),
        limits={"RLIMIT_CPU": 5},
    ),
    Row("no steps", f"lerp {PAIR} --steps 0", 2, ("--steps 0",)),
    Row("neither steps nor places", f"lerp {PAIR}", 2, ("--steps", "--at")),
    Row("steps and places", f"lerp {PAIR} --steps 1 --at 0.5", 2, ("--steps", "--at")),
    Row("a place that is no number", f"lerp {PAIR} --at nan", 2, ("--at nan", "finite")),
    Row(
        "a folder as list",
        f"lerp {PAIR} --steps 1 --resume .",
        2,
        (". is a folder", "name a file in it"),
    ),
    Row("a folder as picture", "related a.safetensors b.safetensors --plot x.svg/", 2, ("x.svg/",)),
    Row("a folder as spec", "spec trace net.py:Net -o new/", 2, ("new/ is a folder",)),
    Row("two places of one name", f"lerp {PAIR} --at 1e-19,2e-19", 2, ("2 results would go to",)),
    Row("empty command", f"lerp {PAIR} --steps 1 --exec ''", 2, ("--exec",)),
    Row("command with one quote", f'lerp {PAIR} --steps 1 --exec "eval \'"', 2, ("--exec",)),
)

STDIN = rows(
    Row("empty stdin", "merge", 2, ("at least two models",)),
    Row("garbage on stdin", "merge", 2, ("stdin", "{garbage"), stdin=b"{garbage\n"),
    Row(
        "an error event on stdin",
        "merge",
        2,
        ("the command before this one failed", "disk full"),
        stdin=b'{"event":"result","path":"x"}\n{"event":"error","message":"disk full"}\n',
    ),
    Row(
        "an event with a path that is none",
        "merge",
        2,
        ("stdin",),
        stdin=b'{"event":"result","path":5}\n{"event":"result","path":null}\n',
    ),
    Row(
        "a missing file on stdin",
        "merge",
        3,
        ("gone.safetensors: no such file",),
        stdin=b"a.safetensors\ngone.safetensors\n",
    ),
    Row("no such user", "align ~nobody-here/a.pt b.safetensors", 3, ("~nobody-here/a.pt",)),
    Row("no such user on stdin", "merge", 3, ("~nobody-here/a",), stdin=b"~nobody-here/a\nb.pt\n"),
    Row("no such user in the output", f"align {PAIR} -o ~nobody-here/x.pt", 2, ("~nobody-here",)),
    Row("a NUL in a path", "merge", 2, ("end in NUL", "-0"), stdin=b"a.safetensors\nx\0y\n"),
)


@pytest.mark.parametrize("row", [*OUTPUTS, *VALUES, *MODELS, *STDIN])
def test_a_contradiction_is_refused_by_name_and_nothing_changes(tmp_path, row):
    done = refused(tmp_path, row)
    assert row.code == 4 or done.out == "", "work had begun"


@CPU_ONLY
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_absent_is_the_machines_fault(tmp_path, device):
    refused(tmp_path, Row("absent", f"align {PAIR} --device {device}", 4, (device, "--device cpu")))


def test_too_little_memory_is_the_machines_fault(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.safetensors", mlp(ord(name), (1, 20_000, 1)))
    before = image(tmp_path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 500_000_000  # of this process, which has torch too
    argv = ("align", "a.safetensors", "b.safetensors", "--spec", "mlp")
    done = rebasin(*argv, cwd=tmp_path, limits={"RLIMIT_AS": limit})
    assert done.code == 4
    assert "not enough memory" in done.err
    assert "Traceback" not in done.err
    assert image(tmp_path) == before
