"""Glue for other people's training loops that would otherwise wrap the model, or save one worker's share only."""
