"""`python -m worker.api`: the API of the drills, which is the real one."""

import sys

from app.__main__ import main

sys.exit(main())
