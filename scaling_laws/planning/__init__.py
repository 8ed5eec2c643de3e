"""Predictions of runs that nobody has made: the law that fits.json keeps, the best cell of a budget, and its training."""
