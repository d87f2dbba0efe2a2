"""The names under which files store a model's tensors, where those are not its own.

Transformers keeps experts as one tensor and writes them as many; its own conversion is run on
tensors without memory, and where its results lie in the model's tensors says all there is to know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rebasin_cli.models.libraries.optional_packages import optional
from rebasin_cli.models.trial_run import quiet
from rebasin_cli.tensors.blocks import Window


def stored_windows(model: nn.Module) -> dict[str, Window]:
    """Return where each tensor of a saved model lies in the model's own; empty if they agree.

    Empty too where the conversion does more than cut, stack and rename.
    """
    if not _of_transformers(model):
        return {}
    loading = optional("transformers", "transformers.core_model_loading")
    own = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    try:
        with quiet(), _ViewsOnly():
            written = loading.revert_weight_conversion(model, dict(own))
    except Exception:  # conversions are many and change from version to version
        return {}
    homes = {_storage(tensor): name for name, tensor in own.items()}
    windows = {name: _window(tensor, homes) for name, tensor in written.items()}
    found = {name: window for name, window in windows.items() if window is not None}
    renamed = any(name != window.source for name, window in found.items())
    return found if renamed and len(found) == len(written) else {}


def ignored_names(model: nn.Module) -> tuple[str, ...]:
    """Return expressions for tensors in old files that a model of transformers does not need."""
    listed: Sequence[str] = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    unsaved = map(re.escape, unsaved_names(model))
    return tuple(sorted([*listed, *unsaved])) if _of_transformers(model) else ()


def unsaved_names(model: nn.Module) -> Sequence[str]:
    """Return the names of a model's tensors that its class does not save."""
    return getattr(model, "_keys_to_ignore_on_save", None) or ()


class _ViewsOnly(TorchFunctionMode):
    """Keeps tensors from being copied, so that every part of one stays a view of it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.contiguous, Tensor.clone):
            return args[0]
        return func(*args, **(kwargs or {}))


def _of_transformers(model: nn.Module) -> bool:
    return any(base.__module__ == "transformers.modeling_utils" for base in type(model).__mro__)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _window(tensor: Tensor, homes: Mapping[int, str]) -> Window | None:
    """Return where a view lies, None if it is a tensor of its own."""
    source = homes.get(_storage(tensor))
    if source is None:
        return None
    return Window(source, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
