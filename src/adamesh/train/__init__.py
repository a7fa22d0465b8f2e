"""The trainer: configuration, the loop, checkpoints, metrics, progress, and launching of workers."""
