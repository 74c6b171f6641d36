"""The trace sink: spans of every service in one place, and the questions that are asked of them."""
