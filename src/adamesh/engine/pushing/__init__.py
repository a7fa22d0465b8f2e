"""The asynchronous sibling of a transaction: gradients pushed to owners, and answers, with no step in common."""
