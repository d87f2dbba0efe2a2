"""An option that a command has not: what may be meant by it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from rebasin_cli.errors import UsageError

# What other tools call it -> ours, of which the first that the command has is meant.
ELSEWHERE = {
    "--alpha": ("--at", "--weights"),
    "--base-model": ("--base",),
    "--bf16": ("--dtype bfloat16",),
    "--cuda": ("--device cuda",),
    "--fp16": ("--dtype float16",),
    "--gpu": ("--device cuda",),
    "--half": ("--dtype float16",),
    "--num-steps": ("--steps",),
    "--output": ("--out",),
    "--overwrite": ("--force",),
    "--threads": ("--jobs",),
    "--workers": ("--jobs",),
}


def unknown_option(command: str, name: str, options: Iterable[str], *, help: str) -> UsageError:
    """Return the error for an option that is none of a command's.

    name: as it was typed. help: the command line that lists those that there are.
    """
    known = [option.removeprefix("--") for option in options]
    ours = (one for one in ELSEWHERE.get(name, ()) if one.split()[0][2:] in known)
    meant = next((f"here it is {one}" for one in ours), "")
    # without the dashes, which would make any two alike
    close = get_close_matches(name.removeprefix("--"), known, n=1)
    near = f"did you mean --{close[0]}?" if close else ""
    return UsageError(f"{command} has no option {name}", hint=meant or near or help)
