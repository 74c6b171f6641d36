"""The Config service."""
