"""N:M sparsity: of every M neighbours along the inputs of a weight, at most N are not zero."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from rebasin_cli.errors import UsageError


@dataclass(frozen=True)
class NeighbourPattern:
    """At most `kept` of `group` neighbours along axis 1 stay, the largest in magnitude.

    Axis 1 are the inputs of nn.Linear and of convolutions, where kernels for sparse matrices want
    them: a convolution (out, in, height, width) has its groups along the input channels, apart for
    each place of the kernel. A last group that is shorter keeps at most as many.
    """

    kept: int
    group: int

    def keeps(self, values: Tensor) -> Tensor:
        """Return where a weight with these values keeps them: bool, of its shape.

        Of equal ones the first go.
        """
        if not values.numel():
            return values.bool()
        values = values.abs() if values.is_complex() else values
        wide = torch.float64 if values.dtype == torch.float64 else torch.float32
        last = values.to(wide).abs().movedim(1, -1)
        short = -last.shape[-1] % self.group
        groups = pad(last, (0, short), value=-1.0).reshape(*last.shape[:-1], -1, self.group)
        largest = groups.argsort(dim=-1, stable=True)[..., self.group - self.kept :]
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, largest, True)
        return kept.flatten(-2)[..., : last.shape[-1]].movedim(-1, 1).contiguous()


def parse_pattern(text: str) -> NeighbourPattern:
    """Return the pattern that a text such as `2:4` names. Raises UsageError for none."""
    found = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text)
    if not found or not 0 < int(found[1]) < int(found[2]):
        raise UsageError(
            f"--pattern {text} is no N:M", hint="2:4 keeps at most 2 of every 4: N is below M"
        )
    return NeighbourPattern(int(found[1]), int(found[2]))
