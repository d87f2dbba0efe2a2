"""Models in files that are scripts too: what these do as such is not ours, and ours not theirs."""

import sys

import pytest
from torch import nn

from rebasin_cli.errors import UsageError
from rebasin_cli.models.target import subject_of_target

PARSES = """
import argparse
from torch import nn

def options(*, required):
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=4, required=required)
    return parser.parse_args()

width = options(required=False).width

def build():
    return nn.Linear(3, options(required=False).width)

def ask():
    return nn.Linear(3, options(required=True).width)

class Leaves(nn.Linear):
    def __init__(self):
        super().__init__(3, width)

    def forward(self, x):
        raise SystemExit(1)
"""


def test_a_training_script_does_not_read_our_command_line(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(PARSES)
    monkeypatch.setattr(sys, "argv", ["rebasin", "align", "a.pt", "b.pt"])
    assert subject_of_target(f"{tmp_path / 'train.py'}:build").build().out_features == 4
    assert sys.argv == ["rebasin", "align", "a.pt", "b.pt"]


def test_code_that_ends_the_program_is_told_with_its_line(tmp_path):
    (tmp_path / "train.py").write_text(PARSES)
    with pytest.raises(UsageError, match=r"cannot be built\nSystemExit: 2 \(.*train\.py:8\)"):
        subject_of_target(f"{tmp_path / 'train.py'}:ask").build()
    leaves = subject_of_target(f"{tmp_path / 'train.py'}:Leaves")
    with pytest.raises(UsageError, match=r"no input was found(?s:.*)SystemExit: 1"):
        leaves.examples(leaves.build())


def test_a_compiled_model_is_run_without_compiling_it(tmp_path):
    source = "import torch\n\ndef build():\n    return torch.compile(torch.nn.Linear(3, 4))\n"
    (tmp_path / "net.py").write_text(source)
    assert type(subject_of_target(f"{tmp_path / 'net.py'}:build").build()) is nn.Linear


def test_a_file_without_a_class_or_misspelt_is_told_with_the_name_to_write(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(PARSES)
    with pytest.raises(UsageError, match=r"names no model\nhint: name a class .*train\.py:Leaves"):
        subject_of_target(str(file))
    with pytest.raises(UsageError, match=r"no such file: .*\nhint: did you mean 'train\.py'"):
        subject_of_target(f"{tmp_path / 'tran.py'}:Leaves")
