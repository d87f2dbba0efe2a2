"""Plans carried out: each `run_*` yields an outcome as soon as its file is complete."""
