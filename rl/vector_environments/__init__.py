"""N copies of an environment stepped as one batch: Gymnasium's, a user's own, Procgen's."""
