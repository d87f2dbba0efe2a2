"""Seeing every operator that reaches torch's dispatcher."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


# torch annotates none of what is ignored here; through this class no mode of ours has to do so.
class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode whose `__torch_dispatch__` is given every operator while it is entered."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that nothing here is compiled: torch would take seconds to import its compiler."""
        return False
