"""`mesh traces`, `mesh trace` and `mesh topology`: what calls did, one by one and all together."""
