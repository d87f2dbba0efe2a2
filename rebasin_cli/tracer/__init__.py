"""A model to its symmetry: record a run, tie axes together, name the groups, prove them."""
