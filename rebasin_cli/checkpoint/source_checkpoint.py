"""Tensors that come from no file, seen as a checkpoint: of a state dict, a module, or computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rebasin_cli.checkpoint.endings import TorchFormat
from rebasin_cli.checkpoint.folder import WeightSet
from rebasin_cli.checkpoint.layout import Layout
from rebasin_cli.checkpoint.parts import Rest
from rebasin_cli.checkpoint.reader import Checkpoint
from rebasin_cli.checkpoint.torch_format.torch_file import require_plain, shared_memory
from rebasin_cli.checkpoint.weight_file import HeldOpen
from rebasin_cli.errors import CheckpointError
from rebasin_cli.tensors import Derived, InMemory, TensorInfo, TensorSource, infos
from rebasin_cli.tensors.digest import tensors_digest


class _Held:
    """A tensor source in the place of an open file."""

    format: TorchFormat = "safetensors"
    rest = Rest()

    def __init__(self, source: TensorSource, ties: Mapping[str, str]) -> None:
        self.source, self.ties = source, ties
        self.infos: Mapping[str, TensorInfo] = infos(source)
        self.metadata: Mapping[str, str] = {}
        self.parts: Mapping[str, TensorSource] = {}
        self.dropped: Mapping[str, str] = {}
        self.extra: tuple[str, ...] = ()

    @property
    def file(self) -> Any:
        raise AttributeError("there is no file")

    def load(self, name: str) -> Tensor:
        return self.source.load(name)


class SourceCheckpoint(Checkpoint):
    """A TensorSource seen as a checkpoint: what works on files works on it.

    label: what errors call it. ties: alias -> first name. config: what a config.json would say.
    """

    def __init__(
        self,
        source: TensorSource,
        label: str,
        *,
        ties: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(Path(label), WeightSet(()), [_Held(source, ties or {})])
        self._config = config or {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it holds: there is nothing that could be opened again."""
        return object.__new__, (type(self),), vars(self)

    @property
    def config(self) -> Mapping[str, Any]:  # there is no folder to look in
        return self._config

    @property
    def layout(self) -> Layout:
        return Layout("safetensors", stored=self._stored, ties=self.ties)

    @property
    def opened(self) -> tuple[HeldOpen, ...]:
        return ()

    def sha256(self) -> str:
        """Return a digest of names, shapes, dtypes and bits: that of the content, not of a file."""
        return tensors_digest((name, self.load(name)) for name in self.names())

    def close(self) -> None:
        """Do nothing: there is no file."""


def held_checkpoint(state: Mapping[str, Any], label: str) -> SourceCheckpoint:
    """Return a state dict as a checkpoint; its tensors are shared, not copied.

    Entries that are no tensors are left out. Raises CheckpointError if there is no tensor.
    """
    lazy = next((name for name, value in state.items() if nn.parameter.is_lazy(value)), None)
    if lazy is not None:
        hint = "run the module once: a lazy one gets its shapes from its first input"
        raise CheckpointError(f"tensor {lazy!r} has no shape yet", where=label, hint=hint)
    tensors = {n: t.detach() for n, t in state.items() if isinstance(t, Tensor)}
    if not tensors:
        raise CheckpointError(
            "there is no tensor in this state dict", where=label, hint=_hint_of(state)
        )
    odd = next((name for name in tensors if not isinstance(name, str)), None)
    if odd is not None:
        raise CheckpointError(f"a tensor is called {odd!r}, which is no text", where=label)
    require_plain({n: t for n, t in tensors.items() if not t.is_meta}, label)
    return SourceCheckpoint(_OnCpu(tensors, label), label, ties=shared_memory(tensors))


def _hint_of(state: Mapping[str, Any]) -> str:
    """Return how to make tensors of arrays, or where in a nested dictionary there are some."""
    if any(hasattr(value, "__array__") for value in state.values()):
        return "torch.from_numpy makes tensors of arrays"
    inner = (n for n, v in state.items() if isinstance(v, Mapping) and _has_tensor(v))
    found = next(inner, None)
    return "" if found is None else f"its entry {found!r} is one"


def _has_tensor(state: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in state.values())


def module_checkpoint(module: nn.Module, label: str) -> SourceCheckpoint:
    """Return the state of a module as a checkpoint; see `held_checkpoint`."""
    found = held_checkpoint(module.state_dict(), label)
    config: Any = getattr(module, "config", None)
    told = config.to_dict() if hasattr(config, "to_dict") else {}
    return SourceCheckpoint(found, label, ties=found.ties, config=told)


class _OnCpu(Derived):
    """A state dict on any device, its tensors brought to the CPU when they are asked for.

    load raises CheckpointError for one on the device `meta`, which has no values.
    """

    def __init__(self, tensors: Mapping[str, Tensor], label: str) -> None:
        super().__init__(InMemory(tensors))
        self._label = label

    def load(self, name: str) -> Tensor:
        tensor = super().load(name)
        if tensor.is_meta:
            raise CheckpointError(
                f"tensor {name!r} is on the device 'meta': it has no values", where=self._label
            )
        # what needs gradients, as sinkhorn, cannot use a tensor of inference mode
        return tensor.clone().cpu() if tensor.is_inference() else tensor.cpu()
