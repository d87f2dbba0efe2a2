"""The command line, its help, events, messages, exit codes and files are those that are kept.

`python -m tests.golden.write` keeps others, see there.
"""

from pathlib import Path

import pytest

from tests.golden.cases import CASES
from tests.golden.golden import HELP, RUNS, difference, help_file, run_file
from tests.golden.plain import plain
from tests.golden.transcript import transcript
from tests.golden.tree import helps


def test_the_commands_are_those_whose_help_is_kept():
    assert sorted(path.stem for path in HELP.iterdir()) == sorted(helps())


def test_every_golden_transcript_has_its_case():
    assert sorted(path.stem for path in RUNS.iterdir()) == sorted(CASES)


@pytest.mark.parametrize("name", sorted(path.stem for path in HELP.glob("*.json")))
def test_the_help_of_a_command_is_the_golden_one(name):
    changed = difference(help_file(name), helps().get(name, ""))
    assert not changed, changed


@pytest.mark.parametrize("name", CASES)
def test_what_a_command_says_and_writes_is_the_golden_text(name, tmp_path):
    changed = difference(run_file(name), transcript(name, tmp_path))
    assert not changed, changed


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("spec mlp, 12.3 s", "spec mlp, # s"),
        ('{"seconds":0.0123,"at":0.5}', '{"seconds":#,"at":0.5}'),
        ("0.12345678 and -1.5e-05, 3.1e-17", "0.123 and -1.5e-05, ~0"),
        (
            "0.0.weight alpha-0.250000.pt 1.2.3 0.weight",
            "0.0.weight alpha-0.250000.pt 1.2.3 0.weight",
        ),
        ("distance 1,234.56", "distance 1.23e+03"),
        ("torch 2.9.1+cpu, 0.06250000", "torch #, 0.0625"),
    ],
)
def test_what_depends_on_a_clock_or_a_processor_is_left_out(said, kept):
    assert plain(said, Path("/nowhere")) == kept


@pytest.mark.parametrize("noise", [0, 1e-7, -1e-7])
def test_numbers_on_the_edge_of_a_rounding_go_one_way(noise):
    assert plain(f"{1.125 + noise:.9f}", Path("/nowhere")) == "1.13"
