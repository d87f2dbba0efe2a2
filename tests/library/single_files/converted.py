"""Small models as a single file, and back by the converters of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import Tensor, nn

from tests.library.single_files.file_models import EMBEDDERS, TEXT

State = dict[str, Tensor]


def converters() -> Any:
    """Return the module of diffusers, which takes a second to import."""
    pytest.importorskip("transformers")
    return pytest.importorskip("diffusers.loaders.single_file_utils")


def unet(file: State, config: Any) -> State:
    """Return the tensors of the U-Net."""
    return dict(converters().convert_ldm_unet_checkpoint(dict(file), config))


def vae(file: State, config: Any) -> State:
    """Return the tensors of the autoencoder."""
    return dict(converters().convert_ldm_vae_checkpoint(dict(file), config))


def clip(file: State, config: Any) -> State:
    """Return the tensors of the text encoder that is kept as transformers has it."""
    return dict(converters().convert_ldm_clip_checkpoint(dict(file)))


def open_clip(prefix: str) -> Callable[[State, Any], State]:
    """Return what finds the tensors of the text encoder of OpenCLIP under a prefix."""

    def found(file: State, config: Any) -> State:
        return dict(converters().convert_open_clip_checkpoint(None, dict(file), prefix))

    return found


Back = Mapping[str, Callable[[State, Any], State]]
SAME: Back = {"unet": unet, "vae": vae}
BACK: Mapping[str, Back] = {
    "sd1": {**SAME, "text": clip},
    "sd2": {**SAME, "text": open_clip(f"{TEXT}model.")},
    "sdxl": {**SAME, "text": clip, "text_g": open_clip(f"{EMBEDDERS}1.model.")},
    "sdxl_refiner": {**SAME, "text": open_clip(f"{EMBEDDERS}0.model.")},
}


def converted_back(kind: str, file: State, model: nn.Module) -> dict[str, State]:
    """Return what diffusers makes of a file: the tensors of each model in it, by its own names."""
    found = {}
    for name, back in BACK[kind].items():
        own = getattr(model, name)
        made = back(file, getattr(own, "config", None))
        short = {key.removeprefix("text_model."): key for key in own.state_dict()}
        found[name] = {short[key.removeprefix("text_model.")]: t for key, t in made.items()}
    return found
