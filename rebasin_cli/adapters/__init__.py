"""Adapters: what each of their tensors follows of the model that they belong to."""
