"""Engines: they move the bytes."""
