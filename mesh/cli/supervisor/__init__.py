"""`mesh up`: every part a process of its own, started in order, kept running, stopped in the other order."""
