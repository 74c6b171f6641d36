"""`mesh config`: central configuration from the command line."""
