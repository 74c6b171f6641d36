"""What `mesh services` shows: the registry's word on every instance beside what the edges think of it."""
