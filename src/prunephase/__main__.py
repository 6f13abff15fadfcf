"""`python -m prunephase`."""

import sys

from prunephase.cli import main

if __name__ == "__main__":
    sys.exit(main())
