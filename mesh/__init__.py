"""The library that service authors import."""

__version__ = "0.1.0"
