"""Writing what a command made: the one way to a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from rebasin_cli.alignment.model_card import NOTHING, CardFacts, with_card
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.writing.writer import Written
from rebasin_cli.files.targets import Target
from rebasin_cli.files.write import Result, write_model
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection


class WritingRequest(Protocol):
    """What is asked of a result."""

    @property
    def selection(self) -> Selection:
        """Which tensors take part."""

    @property
    def output(self) -> Output:
        """Where and how it is written."""

    @property
    def computing(self) -> Computing:
        """With what."""


def write_result(
    result: Result,
    target: Target,
    request: WritingRequest,
    *,
    inputs: Sequence[Checkpoint] = (),
    found: CardFacts = NOTHING,
) -> Written:
    """Write a result as planned, one tensor at a time, whole or not at all.

    inputs, found: what its model card tells of, if one is wanted.
    """
    carded_target = with_card(
        target, inputs, output=request.output, facts=result.facts, found=found
    )
    made = replace(result, threads=request.computing.threads)
    return write_model(made, carded_target, request.selection, request.output)
