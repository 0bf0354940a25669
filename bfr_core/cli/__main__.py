"""`python -m bfr_core.cli`, for where the installed command is not on the path."""

import sys

from . import main

sys.exit(main())
