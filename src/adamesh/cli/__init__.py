"""The command line: one command a file, no logic. Importing one must not import torch: help is instant."""
