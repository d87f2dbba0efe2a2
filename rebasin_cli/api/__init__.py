"""The library: what the commands do, over state dicts, modules, tensor sources and paths.

Nothing is printed, no state of the process is changed, and files are written only by `save` (and
the cache of traces, for targets). What is odd but does not stop the work is a `RebasinWarning`,
what stops it a `RebasinError`; a wrong type is a TypeError.
"""
