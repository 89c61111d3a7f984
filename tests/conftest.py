"""Triton's kernels run in its interpreter here, which must be asked for before anything imports triton; and one thread.

With more threads sums round otherwise, as in a run's own process, and digests of equal runs differ. The hook must be
installed before anything imports the packages whose shapes it checks.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
from jaxtyping import install_import_hook

from tests.shapes import CHECKED

install_import_hook(CHECKED, "tests.shapes.typechecker")
torch.set_num_threads(1)
