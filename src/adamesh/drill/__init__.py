"""Rehearses failures of workers on a task of the user's own, and measures what becomes of its training."""
