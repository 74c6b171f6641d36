"""What the log sink and the trace sink have in common: how batches come in, and how what was asked is said in SQL."""
