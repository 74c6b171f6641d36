"""`mesh explain`: the whole story of a call on one page."""
