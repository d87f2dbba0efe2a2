"""Runs that go on where an earlier one was interrupted, to the same bytes."""
