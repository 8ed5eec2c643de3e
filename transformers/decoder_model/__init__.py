"""The decoder: its blocks, positions and causal mask, n-gram tables, and the operations inside."""
