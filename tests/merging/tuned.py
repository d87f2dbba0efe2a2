"""Models of one tensor, and their base."""

import torch

from rebasin_cli.tensors import InMemory


def draw_models(count=4, shape=(6, 7), dtype=torch.float64, seed=0):
    """Return models of one tensor, and their base behind them."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    models = [base + torch.randn(shape, generator=generator).double() / 4 for _ in range(count - 1)]
    return [InMemory({"w": one.to(dtype)}) for one in (*models, base)]
