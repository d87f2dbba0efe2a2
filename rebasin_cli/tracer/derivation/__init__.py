"""From axes to a spec: groups, their names, heads, experts."""
