"""What the edge answers itself."""
