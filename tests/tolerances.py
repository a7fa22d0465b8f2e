"""How far two results may lie apart, each with its reason. Whatever is not here is compared to the bit."""

import torch

# The squared norm is summed in blocks in the gradient's precision, by a dot product whose order is the CPU's:
# each block is off by a few roundings of its precision.
SQUARED_NORM = {torch.float32: 1e-5, torch.float64: 1e-13}

# A run at another world size sums its gradients in other groups, so each step starts from another rounding of them.
# Measured over up to 8 steps of lr 1e-2, on parameters around 1: 1.2e-16, 1.2e-7 and 1.9e-2. In bfloat16 a gradient
# near zero may be rounded to either side of it, and Adam then goes lr the one way or the other in each step.
TRAJECTORY = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}

# Several workers against one process on the whole batch, after any of 12 steps: the contract of DESIGN.md section 5.
# Measured: 4e-16, a rounding or two.
SINGLE_PROCESS = {torch.float64: 1e-9}

# Plain tensor arithmetic against torch's fused kernel: each operation may round the other way. Measured over 12 steps:
# 2e-7 in float32 and in the float32 masters of bfloat16 parameters. The masters may part by more if ever a parameter
# rounds the other way and changes the next gradient, but not by the 4e-3 of training without masters. (In float16: one
# rounding of a parameter.)
TEXTBOOK = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 1e-3}

# In float32, adamesh's distance from the single process over DDP's, over all parameters of 8 models at the end of 15
# steps: the root mean square, and the largest, which comes in steps of one rounding. Both only regroup sums, each its
# own way, so either may be ahead: the first ratio was measured 1.00 with 2 workers, where there is one way to add, and
# 0.94 to 1.12 with clipping or 3 and 4 workers; the largest of both was 2.4e-7, one rounding of a parameter above 2.
DRIFT_RMS, DRIFT_MAX = 1.25, 2.0

# L-BFGS of several workers against torch's on the whole batch: losses over 4 steps of 8 iterations, relative to the
# first one. Each iteration divides by differences of gradients, so roundings grow. Measured: 1.1e-14 at the most.
LBFGS = {torch.float64: 1e-12}

# Rows of a table under sparse="exact" against dense Adam, after 200 steps of lr up to 5e-2 on parameters around 1: the
# same kernel, on rows gathered elsewhere, so it may round each operation the other way. Measured: 2.3e-15 and 1.6e-6
# (torch's own dense Adam in float32 ends 4.3e-5 from that in float64).
ROWS_200_STEPS = {torch.float64: 1e-12, torch.float32: 1e-5}

# The digits' CNN after 46 steps of lr 3e-3 on two workers, in float32, against one process with torch's AdamW on the
# same batches. Measured through five hosts: 2e-7 to 6e-5. Adam takes a gradient near zero to either side of it, and
# then goes lr the one way or the other.
DIGITS_46_STEPS = 5e-4
