"""Checkpoints: safetensors for tensors, JSON for everything else, written so that a kill loses nothing.

    path/
      manifest.json                            what belongs to the checkpoint, with sizes and sha256
      model-0003-00000-of-00004.safetensors    whole parameters and buffers, each in one of the files
      state-0003-00000-of-00004.safetensors    one worker's runs of the optimizer state

Files of a new generation are written beside those of the old one; replacing the manifest is the one moment at
which the new checkpoint takes the old one's place. The world that loads may be of another size.
"""
