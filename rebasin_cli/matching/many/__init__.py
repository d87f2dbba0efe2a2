"""Matching many models to one another."""
