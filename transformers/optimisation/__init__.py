"""One step of training: the optimisers, the learning rates with their schedules, and what a step needs."""
