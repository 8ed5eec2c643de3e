"""The nets of the study: their size and cost, the digits they see, one training run and its jobs for the workers."""
