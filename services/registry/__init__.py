"""The Registry service."""
