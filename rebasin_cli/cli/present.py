"""Paths that lead nowhere, told before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rebasin_cli.checkpoint.failures import reading
from rebasin_cli.checkpoint.remote.remote_path import RemotePath, named_path
from rebasin_cli.errors import CheckpointError, MachineError, Problem


def require_present(paths: Iterable[Path]) -> None:
    """Raise CheckpointError for paths on this machine that lead nowhere, all at once.

    Whoever opens them would tell the same, seconds later: that takes torch.
    """
    problems: list[Problem] = []
    for path in map(named_path, paths):
        if isinstance(path, RemotePath):
            continue
        try:
            with reading(path):
                path.stat()
        except CheckpointError as error:
            problems += error.problems
        except MachineError:
            continue  # of what is there, and refused, whoever reads it tells
    if problems:
        raise CheckpointError(*dict.fromkeys(problems))
