"""Triton's kernels run in its interpreter here, which must be asked for before anything imports triton."""

import os

os.environ["TRITON_INTERPRET"] = "1"
