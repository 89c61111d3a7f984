"""Triton's kernels run in its interpreter here, which must be asked for before anything imports triton; and one thread.

With more threads sums round otherwise, as in a run's own process, and digests of equal runs differ.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

torch.set_num_threads(1)
