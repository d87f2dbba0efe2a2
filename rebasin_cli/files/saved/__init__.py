"""What is saved of a permutation, beside it: the spec, and the tensors it was found for."""
