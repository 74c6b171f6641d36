"""Policies that the edge and clients share. Pure: a clock comes in, decisions go out."""
