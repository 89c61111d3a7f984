"""`python -m analysis.ladder`, the former name of `python -m analysis.factorial`."""

import sys

from .factorial.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
