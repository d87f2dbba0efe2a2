"""Models to trace: a TARGET of the command line, or an object, to something that can be built."""
