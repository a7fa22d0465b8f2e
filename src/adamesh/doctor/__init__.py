"""What is wrong with a run, by what it has written down."""
