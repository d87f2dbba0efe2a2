"""What belongs to a model: adapters, copies of some tensors, states of its training."""
