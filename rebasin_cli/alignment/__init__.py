"""Two models in one order: what align, merge, lerp, verify and barrier have in common."""
