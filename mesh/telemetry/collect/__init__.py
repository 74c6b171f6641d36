"""The collector: follows files and streams of log lines, and sends them on as standard records."""
