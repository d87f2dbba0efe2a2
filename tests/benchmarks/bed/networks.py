"""The trained networks that several benchmarks use, where they are, and which spec they take."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parents[1]
VARIABLE = "REBASIN_CHECKPOINTS"
FOLDER = Path(os.environ.get(VARIABLE, ROOT.parent / "shared" / "checkpoints"))
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Network:
    """A network trained from three seeds.

    spec: a bundled name, a file, or None where the automatic choice finds it; sizes: for --set.
    """

    name: str
    spec: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def batch_norm(self) -> bool:
        return "_bn" in self.name

    @property
    def options(self) -> list[str]:
        """Return what the command line needs to know of the network."""
        options = ["--spec", self.spec] if self.spec else []
        for name, size in self.sizes.items():
            options += ["--set", f"{name}={size}"]
        return options

    def path(self, seed: int) -> Path:
        return FOLDER / f"{self.name}_s{seed}.safetensors"


NETWORKS = (
    Network("mlp_512x3"),
    Network("vgg_bn", spec=str(BENCHMARKS / "specs" / "vgg_bn.yaml")),
    Network("resnet20_bn_x1"),
    Network("vit_small", sizes={"heads": 4}),
    Network("char_gpt", sizes={"heads": 4}),
)


def chosen(*, full: bool) -> tuple[Network, ...]:
    """Return all networks, or for a short form the ResNet and the ViT, which take least time."""
    return NETWORKS if full else NETWORKS[2:4]


def present() -> bool:
    """Return whether the trained networks are on this machine."""
    return (FOLDER / "evaluate.py").is_file()


def require() -> None:
    """End the program, in good order, where the trained networks are not on this machine."""
    if not present():
        print(f"skipped: no trained networks in {FOLDER}; {VARIABLE} can name another folder")
        sys.exit(0)


def peers(table: str) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return published figures of other tools: network, then tool, then figure."""
    data = yaml.safe_load((BENCHMARKS / "peers.yaml").read_text("utf-8"))
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]] = data[table]
    return figures
