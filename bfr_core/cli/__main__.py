"""`python -m bfr_core.cli`, for where the installed command is not on the path."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
