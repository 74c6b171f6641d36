"""Central configuration, seen from the instances that it is for."""
