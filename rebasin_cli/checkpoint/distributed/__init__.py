"""Checkpoints of torch.distributed.checkpoint (DCP, as FSDP writes them): tensors in pieces."""
