"""Decisions, made from headers before any tensor is read; a dry run prints them."""
