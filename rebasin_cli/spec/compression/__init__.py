"""Folding the names of many layers into templates."""
