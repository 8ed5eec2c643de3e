"""The study of large batches: tuned sweeps, noise measured on the way, fits, and the theory's predictions."""
