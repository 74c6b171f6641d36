"""What the edges of a mesh are told through Config: the application `mesh.edge` and its schema."""

# The names of the mesh's own services: no route leads to the first, and neither is ever public.
EDGE_SERVICE = "mesh-edge"
CONTROL_SERVICE = "mesh-control"
