"""What the edge is told through Config: read, checked, and made into what calls meet. Pure."""
