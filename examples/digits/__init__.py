"""`python -m examples.digits`: the whole way on real handwritten digits, over HTTP."""

import os

# Threads of OpenMP that spin while they wait make training seven times slower when others use the processors
# (19 s became 134 s); torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
