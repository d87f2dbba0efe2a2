"""Weights judged by the curvature of the loss: the empirical Fisher of their gradients."""
