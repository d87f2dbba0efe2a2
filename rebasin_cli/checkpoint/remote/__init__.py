"""Checkpoints that lie elsewhere: in a store of objects, or on the hub."""
