"""Tensors under other names: those that a spec has, and averages of others."""
