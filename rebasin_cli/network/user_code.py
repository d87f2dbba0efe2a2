"""The border to code that is not ours: what it raises becomes a sentence and its own lines."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from rebasin_cli.errors import DeviceMemoryError, MachineError, RebasinError, UserCodeError

LINES = 6  # of a user's own code that are shown, the innermost
# Lines that are not the user's: of Python, of installed packages, of this one, of torch.
_FOREIGN = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
    str(Path(torch.__file__).parent),
    "<",
)


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run code of the user's: its prints go to stderr, its exceptions become UserCodeError.

    what: a noun, as `the model` or `data.py:batches`, for the message. Raises MachineError where
    memory runs out.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except RebasinError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        shortage = MachineError if isinstance(error, MemoryError) else DeviceMemoryError
        raise shortage(
            f"{what} does not fit into memory", hint="smaller batches, or --device cpu"
        ) from error
    except (Exception, SystemExit) as error:  # it can do anything
        said = str(error).strip()
        kind = type(error).__name__
        raise UserCodeError(
            f"{what} failed: {kind}{': ' if said else ''}{said}", detail=own_lines(error)
        ) from error


@contextlib.contextmanager
def users_gradient(loss: torch.Tensor, *, hint: str = "") -> Iterator[None]:
    """Take the gradient of a loss of the user's; see `users_code`.

    Raises UserCodeError for a loss that has none.
    """
    if not loss.requires_grad:
        raise UserCodeError(
            "the model's loss has no gradient",
            detail="it is computed without gradients, or of no floating parameter that it is for",
            hint=hint,
        )
    with users_code("the gradient of the model's loss"):
        yield


def own_lines(error: BaseException) -> str:
    """Return where an exception passed through the user's files, as Python writes it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_FOREIGN)]
    return "".join(traceback.format_list(own[-LINES:])).rstrip("\n")
