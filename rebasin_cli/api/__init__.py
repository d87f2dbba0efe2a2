"""The library: what the commands do, over state dicts, modules, tensor sources and paths.

Nothing is printed, and files are written only by `save`. What is odd but does not stop the work is
a `RebasinWarning`, what stops it a `RebasinError`.
"""
