"""`python -m latentpress`: the same as the command `latentpress`."""

import sys

from latentpress.cli import main

if __name__ == "__main__":
    sys.exit(main())
