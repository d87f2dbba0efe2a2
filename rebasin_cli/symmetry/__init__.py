"""Symmetries beyond permutations: norms folded, maps of larger classes, and the search for them."""
