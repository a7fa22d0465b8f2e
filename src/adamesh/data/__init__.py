"""Readers of data formats, and the sampler that deals samples to workers."""
