"""`mesh logs`: the log records of all services, found and followed."""
