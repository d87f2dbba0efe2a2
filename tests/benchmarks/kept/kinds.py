"""Classes of models of three libraries: how one is built, saved and loaded by its own library."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.models.subject import Example
from rebasin_cli.models.transformers.shrink import shrink_subject
from rebasin_cli.models.transformers.transformers_inputs import (
    Small,
    find_inputs,
    transformers_examples,
)
from rebasin_cli.models.trial_run import normal_noise
from tests.benchmarks.zoo.architectures import ARGUMENTS

STATISTICS = ("running_mean", "running_var")
SPREAD = 0.2  # of what is added to vectors: gains, biases, means


class NotLoadedError(Exception):
    """The library misses tensors in a file, or finds some that it does not know."""


@dataclass(frozen=True)
class Kind:
    """One class of model.

    save: writes the folder that the library writes; load: reads it back, and refuses missing and
    unexpected tensors. target: what `--model` would be, where no config.json says it. prefix: of
    the names of the backbone inside.
    """

    name: str
    build: Callable[[], nn.Module]
    examples: Callable[[nn.Module], tuple[Example, ...]]
    save: Callable[..., None] | None = None
    load: Callable[[Path], nn.Module] | None = None
    target: tuple[str, ...] = ()
    config: Any = field(default=None, repr=False)
    prefix: str = ""

    def model(self, seed: int) -> nn.Module:
        """Return a random model of which no gain is 1 and no bias or statistic 0."""
        torch.manual_seed(seed)
        model = self.build().eval()
        _scatter(model, torch.Generator().manual_seed(seed))
        return model


def _scatter(model: nn.Module, generator: torch.Generator) -> None:
    """Add noise to every parameter and statistic, in the scale of what they multiply."""
    varied = [*model.named_parameters(), *model.named_buffers()]
    with torch.no_grad():
        for name, tensor in varied:
            if isinstance(tensor, nn.Parameter) or name.endswith(STATISTICS):
                random = torch.randn(tensor.shape, generator=generator)
                wide = tensor.dim() > 1 and tensor.numel() > tensor.shape[0]
                scale = (tensor.numel() / tensor.shape[0]) ** -0.5 if wide else SPREAD
                positive = name.endswith("running_var")
                tensor.add_(random.abs() if positive else random, alpha=scale)


def transformers_kind(kind: str, title: str, **fields: object) -> Kind:
    """Return a class of transformers in a tiny configuration, some fields of which are given."""
    zoo: Any = importlib.import_module("tests.benchmarks.zoo.hf_list")
    config = shrink_subject(zoo.configuration(kind))
    for name, value in fields.items():
        setattr(config, name, value)
    return of_config(title, config)


def of_config(title: str, config: Any) -> Kind:
    """Return a class of transformers with its configuration."""
    library: Any = importlib.import_module("transformers")
    cls = getattr(library, title)
    return Kind(
        title,
        lambda: cls(config),
        _fed,
        cls.save_pretrained,
        partial(_pretrained, cls),
        config=config,
        prefix=f"{cls.base_model_prefix}.",
    )


def tied(kind: Kind) -> bool:
    """Return whether the model has a head that is one memory with its embedding."""
    state = kind.build().state_dict(keep_vars=True)
    return len({id(tensor) for tensor in state.values()}) < len(state)


def tied_otherwise(kind: Kind) -> Kind | None:
    """Return the class with its head untied, or tied; None where it cannot be both."""
    config = copy.deepcopy(kind.config)
    config.tie_word_embeddings = not getattr(config, "tie_word_embeddings", True)
    other = of_config(kind.name, config)
    return other if tied(other) != tied(kind) else None


def backbone(kind: Kind) -> Kind | None:
    """Return the class without a head; None where the class has none."""
    library: Any = importlib.import_module("transformers")
    cls: Any = library.AutoModel._model_mapping.get(type(kind.config), None)
    cls = cls[0] if isinstance(cls, tuple) else cls
    if cls is None or cls.__name__ == kind.name:
        return None
    return of_config(cls.__name__, copy.deepcopy(kind.config))


def _fed(model: nn.Module) -> tuple[Example, ...]:
    given = Small(getattr(model, "config", None), model, find_inputs(model))
    return transformers_examples(given, model)


def _pretrained(cls: Any, folder: Path) -> nn.Module:
    model, found = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    _check(found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"])
    loaded: nn.Module = model.eval()
    return loaded


def timm_kind(name: str, **arguments: object) -> Kind:
    """Return an architecture of timm."""
    library: Any = importlib.import_module("timm")
    given = {**ARGUMENTS.get(f"timm:{name}", {}), **arguments}
    return Kind(
        name,
        lambda: library.create_model(name, **given),
        _pictures,
        partial(_to_hub, library, given),
        partial(_from_hub, library),
        _target(f"timm:{name}", given),
    )


def headless(kind: Kind) -> Kind:
    """Return an architecture of timm without its classifier."""
    return timm_kind(kind.name, num_classes=0)


def torchvision_kind(name: str) -> Kind:
    """Return an architecture of torchvision."""
    library: Any = importlib.import_module("torchvision.models")
    given = ARGUMENTS.get(f"torchvision:{name}", {})
    return Kind(
        name,
        lambda: library.get_model(name, weights=None, **given),
        _pictures,
        target=_target(f"torchvision:{name}", given),
    )


def loaded(kind: Kind, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a model of a class with the tensors of one file."""
    model = kind.build().eval()
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise NotLoadedError(str(error).split("\n", maxsplit=1)[1].strip()) from error
    return model


def _target(name: str, arguments: Mapping[str, object]) -> tuple[str, ...]:
    more = ("--model-args", json.dumps(arguments)) if arguments else ()
    return ("--model", name, *more)


def _pictures(model: nn.Module) -> tuple[Example, ...]:
    side = getattr(model, "default_cfg", {}).get("input_size", (3, 64, 64))[-1]
    return (Example((normal_noise((2, 3, side, side)),)),)


def _to_hub(library: Any, given: Mapping[str, object], model: nn.Module, folder: Path) -> None:
    library.models.save_for_hf(model, folder, model_args=dict(given), safe_serialization=True)


def _from_hub(library: Any, folder: Path) -> nn.Module:
    model: nn.Module = library.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def _check(*wrong: Iterable[object]) -> None:
    names = [str(name) for group in wrong for name in group]
    if names:
        raise NotLoadedError(f"missing, unexpected or of another shape: {', '.join(names[:4])}")
