"""A spec and the tensors of checkpoints: sizes solved, axes cut, ties and symmetries checked."""
