"""Symmetries beyond permutations: norms folded, maps of larger classes, and the search for them.

To read in this order: `norm_folding` (why streams may be rotated), `fold_plan`, `maps` (what they
are), `class_solvers` (the best map of each class), `family_solution` (of groups inside one
another), `map_sweeps` (families in turn), `null_model` (what a cosine is to be held against).
"""
