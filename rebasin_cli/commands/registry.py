"""Which commands there are: where each lives, and what it is for, in the order of the help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandEntry:
    """A command: the module that has it, the function, and its summary.

    The summary is the first line of the command's own help, so that a list of commands can be
    printed without importing them.
    """

    module: str
    function: str
    summary: str


def _entry(folder: str, function: str, summary: str) -> CommandEntry:
    return CommandEntry(f"rebasin_cli.commands.{folder}.command", function, summary)


_SUMMARIES = {
    "align": "Permute the units of each MODEL so that it lies in REF's basin. Its function stays "
    "the same.",
    "apply": "Apply saved permutations or maps to a checkpoint with the same tensors, or its "
    "adapters.",
    "fold": "Multiply the gains of norms into the weights that read them. The function stays the "
    "same.",
    "widen": "Give groups of MODEL more units that do nothing. The function stays the same.",
    "merge": "Align the MODELs to one another and average them into one checkpoint.",
    "lerp": "Interpolate between A and B: (1 - alpha) A + alpha B, one checkpoint for each point.",
    "verify": "Is B exactly A with its units reordered? Exit code 0: yes, 1: no.",
    "diff": "Compare two checkpoints tensor by tensor. Exit code 0: equal, 1: they differ.",
    "inspect": "Show what is in a checkpoint: tensors, dtypes, ties, size, and which bundled spec "
    "fits.",
    "related": "What are models to each other: a copy, a fine-tune, a merge, or independent runs?",
    "transport": "Carry what fine-tuning changed from one model to another that was trained apart.",
    "prune": "Set the smallest weights of MODEL to zero: exactly the share that is asked for.",
    "statistics": "Run A, or A and B, on data, and write what their units do: a small safetensors "
    "file.",
    "renormalize": "Give the units of MERGED the statistics of its parents, inside its own "
    "weights.",
    "barrier": "Run the models between A and B, as they are and with B aligned to A: how high is "
    "the barrier?",
}
COMMANDS: Mapping[str, CommandEntry] = {
    name: _entry(name, name, summary) for name, summary in _SUMMARIES.items()
}
SPEC: Mapping[str, CommandEntry] = {
    "list": _entry(
        "spec", "list_", "List the bundled specs: a name and what it is for on each line."
    ),
    "show": _entry("spec", "show", "Print a spec: a bundled one as it is shipped, or a file."),
    "check": _entry(
        "spec.check",
        "check",
        "Check a spec by itself, or against the headers of MODEL. Exit code 0: valid, 1: not.",
    ),
    "trace": _entry(
        "spec.trace",
        "trace",
        "Find the complete symmetry of a PyTorch model, prove it by running, and print its spec.",
    ),
    "init": _entry(
        "spec",
        "init",
        "Print a spec to start from: every tensor of MODEL, layers folded, all axes still fixed.",
    ),
}
