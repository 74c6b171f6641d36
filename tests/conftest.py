"""What all tests have in common."""

from __future__ import annotations

from hypothesis import settings

# No test is timed: the machine may be busy with others.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")

# The package's own, which is there by its entry point where the package is installed.
pytest_plugins = ("mesh.testing.plugin",)
