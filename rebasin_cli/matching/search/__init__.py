"""Coordinate descent from several starts, in several threads."""
