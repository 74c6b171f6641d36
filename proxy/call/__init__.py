"""One call and what it passes through. Pure."""
