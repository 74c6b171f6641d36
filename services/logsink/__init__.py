"""The log sink: log records of every service in one place."""
