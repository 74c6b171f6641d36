"""A server that knows nothing of the mesh, seen from outside: what it serves, how it is, and the process it runs in."""
