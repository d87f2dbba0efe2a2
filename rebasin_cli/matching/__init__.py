"""The search for permutations: two tensor sources and a bound spec in, a Matching out.

To read in this order: `match_weights` (what is asked for), `problem.group_families` and
`problem.terms` (the objective, cut into families of groups), `search.descent` (families improved
in turn), `assignment.joint` (one family, exactly), `methods` (starts, and what else there is
beside descents: `relaxation`), `match_activations` (the same on what units do), `many`.
"""
