"""Rules: the update mathematics, one rule a file. A rule knows nothing of ranks."""
