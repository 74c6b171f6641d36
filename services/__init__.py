"""The control services."""
