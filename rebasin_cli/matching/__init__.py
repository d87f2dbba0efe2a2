"""The search for permutations: two tensor sources and a bound spec in, a Matching out."""
