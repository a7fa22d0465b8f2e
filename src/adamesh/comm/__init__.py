"""Communicators: the collectives, over torch.distributed or over threads of one process."""
