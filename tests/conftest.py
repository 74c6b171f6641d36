"""What all tests have in common."""

from __future__ import annotations

import os

from hypothesis import settings

# The processes that tests start load the same modules: with this set, each of them would compile ours anew, which is a
# third of what its start costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No test is timed: the machine may be busy with others.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")

# The package's own, which is there by its entry point where the package is installed.
pytest_plugins = ("mesh.testing.plugin",)
