"""PyTorch's own files: read without unpickling objects, and written."""
