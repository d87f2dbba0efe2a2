"""`rebasin align --symmetry auto`: permutations or orthogonal maps, whichever tell more."""
