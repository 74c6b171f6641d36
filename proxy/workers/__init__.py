"""An edge of several processes: a master that holds the port and the numbers, and workers that carry the calls."""
