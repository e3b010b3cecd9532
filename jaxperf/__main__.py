"""`python -m jaxperf`: the command line without its installed script."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
