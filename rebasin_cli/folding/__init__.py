"""Models with their norms folded, as commands make and report them."""
