"""Where in a run the units of each group can be observed."""
