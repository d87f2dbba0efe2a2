"""Correcting the statistics of a merged model."""
