"""Which endpoint gets a call. Pure: decide first, do the I/O after."""
