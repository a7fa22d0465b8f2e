"""Where the laws of training are tried: ``ADAMESH_TEST_DEVICE=cuda`` takes models and batches to a GPU (`make gpu`)."""

import os

import torch

DEVICE = torch.device(os.environ.get("ADAMESH_TEST_DEVICE", "cpu"))
