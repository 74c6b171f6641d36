"""What every call passes, one file each. Pure."""
