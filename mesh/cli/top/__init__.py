"""`mesh top`."""
