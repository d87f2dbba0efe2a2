"""A model to its symmetry: record a run, tie axes together, name the groups, prove them.

To read in this order: `trace` (the whole), `recording.record` (what a run leaves),
`axes.axis_terms` and `axes.bindings` (what axes are made of, and how two become one), `rules` (what
each operator ties), `derivation.derive` (from terms to a spec), `proof.proof` (the model run,
permuted). `classes` says where more than permutations is allowed, `points` where units are seen.
"""
