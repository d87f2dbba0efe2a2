"""Masks of pruned tensors as text, for the metadata of a file."""

from __future__ import annotations

import base64
import zlib

import torch
from torch import Tensor

_PLACES = (128, 64, 32, 16, 8, 4, 2, 1)  # the first weight is the highest bit, as numpy packs


def packed(mask: Tensor) -> str:
    """Return a mask as text: its bits in row-major order, eight a byte, zlib, base64.

    The last byte is filled up with zeros. In numpy the way back is
    `np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8))`.
    """
    flat = mask.reshape(-1)
    bits = torch.nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).view(-1, 8)
    whole = (bits * torch.tensor(_PLACES, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    return base64.b64encode(zlib.compress(whole.numpy().tobytes())).decode()
