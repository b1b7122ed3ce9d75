"""`python -m feddtl`."""

import sys

from feddtl.cli import main

sys.exit(main())
