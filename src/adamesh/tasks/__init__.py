"""What can be trained: one task a file. `adamesh.tasks.catalog` finds them by name or path."""
