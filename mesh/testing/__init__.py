"""What tests of the mesh and of services on it are made with."""

from mesh.testing.clock import ManualClock

__all__ = ["ManualClock"]
