"""The registry, seen from its clients."""
