"""What the document of the application `mesh.edge` says, for all who make calls by it: edges and clients. Pure."""
