"""The worker of the drills: the real one but for the work itself, so that a job takes a second.

Servers are started in the folder above, where this package stands before the real one of the same name.
"""

from pathlib import Path

from tests.chaos import sabotage

__path__.append(str(Path(__file__).parents[4] / "worker"))

sabotage.apply()
