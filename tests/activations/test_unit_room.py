"""How much memory comparing units by what they do takes, beside the estimate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

WIDTH = 1200
MEASURED = """
import sys
from pathlib import Path
import rebasin_cli.alignment.unit_pair as place
from rebasin_cli.cli import main

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

def needs(machine, needed, *text, **more):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    told.extend([needed, memory("VmRSS")])

told = []
place.check_unit_room.__globals__["Machine"].require = needs
try:
    main()
finally:
    print(told[0] / (memory("VmHWM") - told[1]))
"""
NET = f"""
import torch
from torch import nn
def net():
    wide = [layer for _ in range(3) for layer in (nn.Linear({WIDTH}, {WIDTH}), nn.ReLU())]
    return nn.Sequential(nn.Linear(8, {WIDTH}), *wide, nn.Linear({WIDTH}, 3))
def data():
    return [(torch.randn(64, 8, generator=torch.Generator().manual_seed(k)), torch.arange(64) % 3)
            for k in range(3)]
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak")
def test_comparing_units_takes_what_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET, "utf-8")
    names: dict[str, object] = {}
    exec(NET, names)
    build = names["net"]
    assert callable(build)
    for name in ("a.pt", "b.pt"):
        model: nn.Module = build()
        torch.save(model.state_dict(), tmp_path / name)
    argv = "align a.pt b.pt --method activations --model net.py:net --data net.py:data --no-check"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *argv.split(), "--no-cache", "--jobs", "1", "-o", "o.pt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.75 < float(done.stdout.splitlines()[-1]) < 1.25
