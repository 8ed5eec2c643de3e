"""The shapes that a law of loss may have, how one is fitted, and how the one to predict with is chosen."""
