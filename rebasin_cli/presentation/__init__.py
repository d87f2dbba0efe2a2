"""Outcomes to the two streams: results on stdout, talk on stderr."""
