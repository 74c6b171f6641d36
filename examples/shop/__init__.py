"""A shop of four services: each joins the mesh in five lines, and calls the others by their names."""
