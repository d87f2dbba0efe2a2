"""`timm:NAME`: every model of timm's registry, with inputs as small as it accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.models.libraries.optional_packages import optional, version_of
from rebasin_cli.models.libraries.random_images import image, image_family
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.trial_run import InputFamily, two_sizes
from rebasin_cli.models.user.construction import construct


def timm_subject(name: str, arguments: Mapping[str, object]) -> Subject:
    """Return a model of timm; a tag after a dot (`resnet50.a1_in1k`) may be given."""
    timm = optional("timm")
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise UsageError(f"timm has no model {name!r}", hint=suggest(name, known))
    given = {"pretrained": False, **arguments}
    return Subject(
        f"timm:{name}",
        lambda: construct(f"timm:{name}", lambda: timm.create_model(name, **given)),
        timm_examples,
        version=f"{version_of('timm')} {name} {json.dumps(dict(arguments), sort_keys=True)}",
    )


def timm_examples(model: nn.Module) -> tuple[Example, ...]:
    """Return two sizes of images; a model of fixed size gets its size in batches of 2 and 3."""
    config: Any = getattr(model, "default_cfg", None) or {}
    channels, *native = config.get("input_size") or (3, 224, 224)
    fixed = InputFamily(image, [(channels, *native)])
    free = image_family(channels, tuple(native))
    # A model built with its own `img_size` no longer has the size that its default_cfg says.
    return two_sizes(model, (fixed, free) if config.get("fixed_input_size") else (free,))
