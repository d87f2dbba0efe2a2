"""Networks for tests of widening, whose widths are arguments."""

CODE = """
import torch
from torch import nn

def perceptron(hidden=8, norm=False):
    layers = [nn.Linear(6, hidden), nn.LayerNorm(hidden) if norm else nn.Identity(), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(hidden, 4))

class Attention(nn.Module):
    def __init__(self, heads=2, size=3):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(6, heads * size) for _ in range(3))
        self.out = nn.Linear(heads * size, 6)

    def forward(self, x):
        apart = lambda layer: layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(*map(apart, (self.q, self.k, self.v)))
        return self.out(mixed.transpose(1, 2).flatten(2))

def rows():
    return torch.ones(3, 6)

def tokens():
    return torch.linspace(-1, 1, 60).reshape(2, 5, 6)
"""
