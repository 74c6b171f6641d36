"""Which service a call is for. Pure."""
