"""Revisioned keys and values with leases and watches."""
