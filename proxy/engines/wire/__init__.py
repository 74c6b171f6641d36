"""The fast engine: forwards HTTP/2 streams on ngh2 and uvloop, without a task per call."""
