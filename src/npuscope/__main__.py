"""`python -m npuscope`."""

import sys

from npuscope.cli import main

sys.exit(main())
