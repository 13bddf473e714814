"""`python -m sharpless`."""

import sys

from sharpless.cli import main

sys.exit(main())
