"""`rebasin align --symmetry orthogonal`: maps of larger classes than permutations."""
