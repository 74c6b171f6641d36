"""Records on their way to where they are kept."""
