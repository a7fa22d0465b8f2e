"""Codecs: how a run of numbers becomes bytes and back, one codec a file. A codec knows nothing of ranks."""
