"""What the benchmarks share: the checkpoints, how a command is run, how a model is judged."""
