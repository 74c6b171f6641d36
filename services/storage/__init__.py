"""Where control services keep things."""
