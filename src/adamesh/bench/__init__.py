"""Measured comparisons with PyTorch's own ways of training on several workers."""
