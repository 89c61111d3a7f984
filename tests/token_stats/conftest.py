"""Triton's kernels run in its interpreter here; it must be asked for before triton is imported."""

import os

os.environ["TRITON_INTERPRET"] = "1"
