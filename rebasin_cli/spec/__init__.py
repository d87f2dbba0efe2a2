"""The spec language: text to `Spec` (language), and that with tensors to `BoundSpec` (binding)."""
