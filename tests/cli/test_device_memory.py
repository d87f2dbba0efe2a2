"""What a device has no memory for, and nothing helps against, is an error that says what to do."""

import pytest
import torch
import typer

from rebasin_cli.cli.runner import guard
from rebasin_cli.cli.screen import Screen
from rebasin_cli.execution.answer import carry_out_task, outcome_of
from rebasin_cli.tensors.device_memory import tell_shortage
from tests.cli.build import pair
from tests.cli.harness import rebasin

EVALUATE = """
import torch
from torch import nn


def net():
    sizes = (6, 8, 11, 9, 4)
    layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def short(model):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


def refuse():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_device_memory_ends_with_what_to_do(capsys):
    with pytest.raises(typer.Exit) as left, guard("align"):
        refuse()
    assert left.value.exit_code == 4
    assert capsys.readouterr().err == (
        "error: a device has not enough memory\n"
        "CUDA out of memory. Tried to allocate 2.00 GiB\n"
        "hint: --device cpu, or --max-memory SIZE, or free the memory of the device\n"
    )


def test_a_process_tells_of_it_where_the_run_began():
    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        outcome_of(carry_out_task(refuse))


def test_code_of_the_users_without_memory_is_named(tmp_path):
    (tmp_path / "user.py").write_text(EVALUATE)
    pair(tmp_path)
    argv = ("barrier", "a.safetensors", "b.safetensors", "--model", "user.py:net", "--no-align")
    done = rebasin(*argv, "--evaluate", "user.py:short", cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert "user.py:short does not fit into memory" in done.err
    assert "hint: smaller batches, or --device cpu" in done.err


def test_a_shortage_is_told_once(capsys):
    with Screen("align", {}).warnings():
        for _ in range(3):
            tell_shortage(torch.device("cuda"))
    told = capsys.readouterr().err
    assert told.count("warning: out of memory on cuda: the work goes on in smaller pieces") == 1
