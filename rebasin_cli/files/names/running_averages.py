"""Running averages that a file keeps of some of its tensors: they follow those."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from rebasin_cli.tensors import TensorInfo

AVERAGES = "model_ema."
_WRAPPED = "model."


def averaged_tensors(infos: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Return the names of running averages -> the tensors that they are averages of.

    LitEma (ldm/modules/ema.py of latent-diffusion) names the average of `model.NAME` `model_ema.`
    and NAME without its dots, since buffers cannot have any. A name that two tensors could have
    become, or that no tensor of the same shape has, is left out.
    """
    dotless: defaultdict[str, list[str]] = defaultdict(list)
    for name in infos:
        for seen in dict.fromkeys((name, name.removeprefix(_WRAPPED))):
            dotless[seen.replace(".", "")].append(name)
    found = {}
    for name, info in infos.items():
        inside = name.removeprefix(AVERAGES)
        if inside == name or "." in inside or info.numel == 1:
            continue
        origins = [n for n in dotless[inside] if n != name and infos[n].shape == info.shape]
        if len(origins) == 1:
            found[name] = origins[0]
    return found


def of_averages(infos: Mapping[str, TensorInfo]) -> frozenset[str]:
    """Return the names of running averages, and of the numbers kept with them (decay, updates)."""
    numbers = (n for n, info in infos.items() if n.startswith(AVERAGES) and info.numel == 1)
    return frozenset((*averaged_tensors(infos), *numbers))
