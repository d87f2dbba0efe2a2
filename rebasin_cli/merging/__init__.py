"""Averages: of two models, of many, along lines and arcs, of what two models have in common."""
