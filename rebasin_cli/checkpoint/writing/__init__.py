"""Writing checkpoints: beside the target, flushed, renamed; whole or not at all."""
