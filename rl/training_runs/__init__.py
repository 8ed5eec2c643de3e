"""The loop around the update, and what is kept of it."""
