"""Checkpoint files: opened lazily, checked before use, written whole or not at all."""
