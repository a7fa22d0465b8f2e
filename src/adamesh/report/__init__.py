"""Runs made visible: one page for reading later, the same page live, and a terminal view."""
