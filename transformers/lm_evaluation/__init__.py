"""What a run may take and what it came to: steps from minutes, losses, generated text, checkpoints."""
