"""`torchvision:NAME`: every model of torchvision's registry, with inputs as small as it accepts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping

from torch import nn

from rebasin_cli.errors import UsageError, suggest
from rebasin_cli.models.libraries.detectors import expose_heads
from rebasin_cli.models.libraries.optional_packages import optional, version_of
from rebasin_cli.models.libraries.random_images import image, image_family
from rebasin_cli.models.subject import Example, Subject
from rebasin_cli.models.trial_run import InputFamily, normal_noise, two_sizes
from rebasin_cli.models.user.construction import check_arguments, construct

# Few frames: convolutions in float64 are slow. What S3D makes of the third just fills the window
# that it pools; MViT has tables for the last.
VIDEO = InputFamily(
    image, [(3, 8, 48, 48), (3, 9, 40, 40), (3, 13, 209, 209), (3, 13, 212, 212), (3, 16, 224, 224)]
)


def torchvision_subject(name: str, arguments: Mapping[str, object]) -> Subject:
    """Return a model of torchvision; detectors run their heads only, see `expose_heads`."""
    registry = optional("torchvision", "torchvision.models")
    known = registry.list_models()
    if name not in known:
        raise UsageError(f"torchvision has no model {name!r}", hint=suggest(name, known))
    builder = registry.get_model_builder(name)
    untrained = [key for key in inspect.signature(builder).parameters if key.startswith("weights")]
    given = {**dict.fromkeys(untrained), **arguments}
    check_arguments(f"torchvision:{name}", builder, given)
    version = f"{version_of('torchvision')} {name} {json.dumps(dict(arguments), sort_keys=True)}"
    return Subject(
        f"torchvision:{name}",
        lambda: expose_heads(construct(f"torchvision:{name}", lambda: builder(**given))),
        torchvision_examples,
        version=version,
    )


def torchvision_examples(model: nn.Module) -> tuple[Example, ...]:
    """Return two sizes of images, videos, or pairs of images for optical flow."""
    return two_sizes(model, (image_family(), VIDEO, FLOW))


def _pair(shape: tuple[int, ...]) -> Example:
    """Return two images, and fewer refinements of the flow than by default: all share weights."""
    return Example((normal_noise(shape, 0), normal_noise(shape, 1)), {"num_flow_updates": 2})


FLOW = InputFamily(_pair, [(3, 128, 128), (3, 144, 136)])
