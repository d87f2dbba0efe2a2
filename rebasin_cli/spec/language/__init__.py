"""The spec language: what a spec says, its text, and all that can be wrong with it."""
