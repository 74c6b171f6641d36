"""Lines of logs as standard records, whatever their format. Decides, and does no I/O."""
