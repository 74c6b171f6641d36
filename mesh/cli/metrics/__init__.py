"""`mesh query` and `mesh alerts`."""
