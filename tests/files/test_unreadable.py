"""Input that the machine does not give away is exit code 4, whatever it is and whoever meets it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.build import mlp, pair, save, sharded
from tests.cli.harness import COMMAND, plain_environment, rebasin

BROKEN = "/proc/self/mem"  # a regular file whose first bytes cannot be read, by nobody
needs_broken = pytest.mark.skipif(not Path(BROKEN).exists(), reason="no such file here")
AB = ["a.safetensors", "b.safetensors"]
MODEL = "from torch import nn\nNet = lambda: nn.Linear(6, 4)\n"
DATA = "import torch\ndef batches():\n    yield torch.ones(2, 6), torch.tensor([0, 1])\n"
# what is made unreadable, and a command that needs it
INPUTS = {
    "a model": ("b.safetensors", ["align", *AB]),
    "a model of a merge": ("a.safetensors", ["merge", *AB]),
    "one to inspect": ("a.safetensors", ["inspect", "a.safetensors"]),
    "one to compare": ("b.safetensors", ["diff", *AB]),
    "one to verify": ("a.safetensors", ["verify", *AB]),
    "a spec": ("s.yaml", ["align", *AB, "--spec", "s.yaml"]),
    "a spec to check": ("s.yaml", ["spec", "check", "s.yaml"]),
    "a permutation": ("p.safetensors", ["apply", "p.safetensors", "b.safetensors"]),
    "a start": ("p.safetensors", ["align", *AB, "--start", "p.safetensors"]),
    "a module": ("net.py", ["align", *AB, "--model", "net.py:Net"]),
    "data": ("data.py", ["barrier", *AB, "--model", "net.py:Net", "--data", "data.py:batches"]),
    "statistics": (
        "p.safetensors",
        ["align", *AB, "--method", "activations", "--statistics", "p.safetensors"],
    ),
    "the configuration": ("h/config.json", ["merge", "h", "h", "-o", "o"]),
    "a target's configuration": ("h/config.json", ["spec", "trace", "hf:h"]),
    "an index": ("h/model.safetensors.index.json", ["inspect", "h"]),
    "a folder": ("h", ["inspect", "h"]),
    "a folder on the way": ("h", ["inspect", "h/model-00001-of-00002.safetensors"]),
}


def files(folder):
    pair(folder)
    (folder / "s.yaml").write_text("rebasin: 1\nname: s\ntensors: {0.weight: [h, ~]}\n")
    (folder / "net.py").write_text(MODEL)
    (folder / "data.py").write_text(DATA)
    save(folder / "p.safetensors", mlp(1))
    (folder / "h").mkdir()
    sharded(folder / "h", mlp(1), {"architectures": ["LlamaForCausalLM"], "model_type": "llama"})


def plainly(*argv, cwd):
    """Run the command as a user who may not read everything, root as one without that power."""
    return subprocess.run(
        [*POWERLESS, *COMMAND, *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**plain_environment(), "REBASIN_NO_CACHE": "1"},
        check=False,
    )


def powerless():
    """Return what to put before a command, None if this user can read everything anyway."""
    if os.geteuid():
        return []
    less = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    works = shutil.which("setpriv") and subprocess.run([*less, "true"], check=False).returncode == 0
    return less if works else None


POWERLESS = powerless() or []
as_others = pytest.mark.skipif(powerless() is None, reason="this user may read everything")


@as_others
@pytest.mark.slow
@pytest.mark.parametrize("what", INPUTS)
def test_input_that_may_not_be_read_is_exit_code_4(tmp_path, what):
    files(tmp_path)
    name, command = INPUTS[what]
    (tmp_path / name).chmod(0)
    done = plainly(*command, cwd=tmp_path)
    (tmp_path / name).chmod(0o700)
    assert (done.returncode, name in done.stderr) == (4, True), done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@needs_broken
@pytest.mark.parametrize(
    "what", ["a spec", "a spec to check", "a module", "data", "the configuration"]
)
def test_input_that_the_disk_does_not_give_is_exit_code_4(tmp_path, what):
    files(tmp_path)
    name, command = INPUTS[what]
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(BROKEN)
    done = rebasin(*command, "--json", cwd=tmp_path)
    assert done.code == 4, done.err
    assert "Input/output error" in done.err
    assert name in done.err
    errors = [event for event in map(json.loads, done.lines) if event["event"] == "error"]
    assert [event["code"] for event in errors] == [4]


@as_others
@pytest.mark.slow
def test_several_models_that_may_not_be_read_are_exit_code_4_and_with_a_broken_one_3(tmp_path):
    files(tmp_path)
    for name in AB:
        (tmp_path / name).chmod(0)
    done = plainly("align", *AB, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("Permission denied") == 2
    (tmp_path / "c.safetensors").write_bytes(b"x")
    assert plainly("align", *AB, "c.safetensors", cwd=tmp_path).returncode == 3


def test_a_list_of_models_that_cannot_be_read_is_exit_code_4(tmp_path):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 0> list', "sh", *COMMAND, "merge"],  # may be written only
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=plain_environment(),
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "Bad file descriptor" in done.stderr
