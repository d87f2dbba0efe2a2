"""Models with a drawn permutation of every group, in files, and `apply` on what belongs to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rebasin_cli.checkpoint.reader import open_checkpoint
from rebasin_cli.commands.apply.command import ApplyRequest
from rebasin_cli.commands.apply.plan import plan_apply
from rebasin_cli.commands.apply.run import run_apply
from rebasin_cli.files.places import OutputPlace
from rebasin_cli.files.saved.permutation_file import save_permutations
from rebasin_cli.folding.map_file import save_maps
from rebasin_cli.options.computing import Computing
from rebasin_cli.options.output import Output
from rebasin_cli.options.selection import Selection
from rebasin_cli.progress import silent
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.bound import draw_permutations
from rebasin_cli.spec.library import load_spec
from rebasin_cli.symmetry.random_maps import draw_maps
from rebasin_cli.tensors import infos
from tests.symmetry.rotated_files import store
from tests.symmetry.small import case

PERM = "perm.safetensors"


def write_permutation(
    model: Path, spec: str, sizes: Mapping[str, int] | None = None, *, seed: int = 1
) -> Path:
    """Write a permutation file of a model beside it, with a random order of every group."""
    with open_checkpoint(model) as found:
        bound = bind(load_spec(spec), infos(found), sizes=sizes or {}, ties=found.ties)
        drawn = draw_permutations(bound.groups.values(), torch.Generator().manual_seed(seed))
        place = OutputPlace(model.parent / PERM, overwrite=True, skip=False, folder=None)
        save_permutations(place, drawn, bound, (found, found), sizes or {})
    return place.path


def applied(file: Path, out: Path, *, perm: Path | None = None, **asked):
    """Apply the permutation beside a file to it, and return what was done."""
    request = ApplyRequest(
        perm or file.parent / PERM,
        file,
        selection=Selection(),
        output=Output(out=str(out), force=True),
        computing=Computing(check=False),
        **asked,
    )
    (outcome,) = run_apply(plan_apply(request), silent)
    return outcome


def moved_model(model: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a model after its permutation."""
    out = model.parent / "moved.safetensors"
    applied(model, out)
    return load_file(out)


def write_case(
    folder: Path, kind: str, *, biased: bool = True
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Write a model and random maps of it. biased: norms have biases, if they are LayerNorms."""
    found = case(kind)
    state = {
        n: torch.zeros_like(t) if n.endswith(("one.bias", "two.bias")) and not biased else t
        for n, t in found.state.items()
    }
    store(folder / "base.safetensors", state)
    with open_checkpoint(folder / "base.safetensors") as model:
        groups = found.plan.moving.groups.values()
        maps = draw_maps(groups, found.plan.classes, torch.Generator().manual_seed(5))
        place = OutputPlace(folder / "perm.safetensors", overwrite=True, skip=False, folder=None)
        save_maps(place, maps, found.plan, (model, model), {})
    return found.net, state
