"""A process that has torch in memory and forks one `rebasin` process for each request.

Starting a fresh interpreter costs seconds of imports; a fork costs milliseconds, and is as real:
its own descriptors, exit code, signals and limits. Nothing here has run a thread before the fork.

A request is one JSON message on the socket that argv[1] names, with the descriptors of stdin,
stdout, stderr and a pipe, on which the process's id and, when it ends, its wait status are sent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import json
import mmap
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import rebasin_cli

LARGEST_REQUEST = 1 << 16
PICTURES = (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
)
# What takes seconds: after the first command that imported one of them, all find it in memory.
LATE = (
    "torch._dynamo",
    "transformers.models.auto.configuration_auto",
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
)
OF_THE_HUB = ("huggingface_hub", "transformers")  # packages that read the environment when imported
COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1; an older kernel refuses it


def main() -> None:
    """Serve requests until the other side closes the socket."""
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _import_all()
        ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        reports: dict[int, int] = {}
        late = mmap.mmap(-1, len(LATE))  # shared with the commands: whether one imported each
        while True:
            ready = select.select([requests.fileno(), ended], [], [])[0]
            if ended in ready:
                os.read(ended, 4096)
                _report(reports)
            if requests.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 4)
                if not message:
                    return
                *streams, report = descriptors
                _import_late(late)
                child = _forked(json.loads(message), streams, late)
                os.write(report, f"{child}\n".encode())
                reports[child] = report


def _report(reports: dict[int, int]) -> None:
    """Send the status of each command that has ended."""
    while reports and (ended := os.waitpid(-1, os.WNOHANG))[0]:
        child, status = ended
        report = reports.pop(child)
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            os.write(report, f"{status}\n".encode())
        os.close(report)


def _forked(request: dict[str, Any], streams: list[int], late: mmap.mmap) -> int:
    """Fork the command and return its process id."""
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _become(request, streams)
        code = _run()
        for place, name in enumerate(LATE):
            late[place] |= name in sys.modules
        os._exit(code)
    for descriptor in streams:
        os.close(descriptor)
    return child


def _import_all() -> None:
    """Import what the commands would, so that no fork has to."""
    for module in pkgutil.walk_packages(rebasin_cli.__path__, "rebasin_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for module_name in PICTURES:
        importlib.import_module(module_name)
    # What commands import late and what they keep: pydantic, rich's pages of help, bundled specs.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_file({"weight": torch.zeros(2, 2)}, path)
        for argv in (["inspect", str(path)], ["align", "--help"]):
            sys.argv = ["rebasin", *argv]
            with contextlib.redirect_stdout(io.StringIO()):
                _run()
    gc.freeze()
    _use_huge_pages()


def _import_late(late: mmap.mmap) -> None:
    """Import what a command has, and the next are to find in memory."""
    wanted = [name for place, name in enumerate(LATE) if late[place] and name not in sys.modules]
    for name in wanted:
        importlib.import_module(name)
    if wanted:
        gc.freeze()
        _use_huge_pages()


def _of_the_hub(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("HF_")}


def _use_huge_pages() -> None:
    """Gather memory into pages of 2 MB: a fork copies their table, which was half of its time."""
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access = line.split()[:2]
        if access == "rw-p":
            start, end = (int(place, 16) for place in span.split("-"))
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), COLLAPSE)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Turn this process into one that is about to run `rebasin ARGV`."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 256)
    _open_streams()
    for number in request["closed"]:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as a fresh interpreter has it
    os.chdir(request["cwd"])
    if _of_the_hub(os.environ) != _of_the_hub(request["env"]):
        for name in [name for name in sys.modules if name.partition(".")[0] in OF_THE_HUB]:
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(request["env"])
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    sys.modules["__main__"].__package__ = None  # where typer looks for the name of the program
    sys.argv = ["rebasin", *request["argv"]]


def _open_streams() -> None:
    """Give Python the streams that a fresh interpreter would have made."""
    sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False), encoding="utf-8")
    out, err = (os.fdopen(number, "wb", closefd=False) for number in (1, 2))
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", line_buffering=out.isatty())
    sys.stderr = io.TextIOWrapper(
        err, encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def _run() -> int:
    """Run the command line and return its exit code, as the interpreter would."""
    from rebasin_cli.cli import main as rebasin

    try:
        rebasin()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        return 120  # what the interpreter says of a stdout that it cannot flush at its end
    return code


if __name__ == "__main__":
    main()
