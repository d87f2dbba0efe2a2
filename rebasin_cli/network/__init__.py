"""The user's module around a checkpoint: its data, its layers, its scores."""
