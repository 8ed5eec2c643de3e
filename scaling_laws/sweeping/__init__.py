"""A sweep: its settings, the grid of its cells, the search of its learning rate, and the running of it all."""
