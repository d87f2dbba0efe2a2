"""Signs of units: which of the values that share some units may all be multiplied by -1."""
