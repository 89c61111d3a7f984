"""Settings that must be made before anything imports torch, triton or huggingface_hub.

Triton's kernels run in its interpreter. Everything runs on one thread, here and in the processes that tests start: with
more threads sums round otherwise, so that digests of equal runs differ, and threads of several processes that wait for
each other make a busy machine many times slower.
Nothing is asked of the network.
The hook that checks shapes must be installed before anything imports the packages that it checks.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from jaxtyping import install_import_hook

from tests.shapes import CHECKED

install_import_hook(CHECKED, "tests.shapes.typechecker")
torch.set_num_threads(1)
