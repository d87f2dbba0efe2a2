"""Soft permutations: Frank-Wolfe and Sinkhorn."""
