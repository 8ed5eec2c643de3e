"""What the columns of a sweep's tables and the keys of its JSON files mean; `docs/runs.md` is made from here."""

RUNS_CSV = {
    "arm": "isoflop (lines of equal compute), row (L(D) at one width), column (L(N) at one D), single, or tune",
    "status": "ok or diverged",
    "width": "channels of the first convolution",
    "n_params": "N, trainable parameters",
    "macs": "M, multiply-adds of one forward pass of one image",
    "n_samples": "D, training images seen, each once",
    "n_unique": "different digits among them",
    "copies": "transformed copies of the training set that they come from",
    "batch_size": "images per step",
    "steps": "steps of the optimiser",
    "lr": "peak learning rate",
    "dropout": "share of activations dropped before the linear head",
    "seed": "of the weights, the order and the subset",
    "flops": "C = 6 M D, floating-point operations of training",
    "test_loss": "nats per clean test image",
    "test_accuracy": "share of test images",
    "tune_loss": "nats per image of the tuning set, where learning rates are chosen",
    "tune_accuracy": "share of the tuning set",
    "train_loss": "nats per image, mean over the last part of training",
    "seconds": "of training, per net",
    "images_per_second": "in training, per net",
    "device": "cpu, cuda or mps",
    "dataset": "mnist, or mnist5k",
    "net": "variant of the net",
}
SUMMARY_JSON = {
    "runs": "rows of runs.csv",
    "diverged": "of them, those whose loss is no number",
    "lr_rule": "with `--tuning only`: the learning rate as a law of width and samples",
}
DESIGN_CSV = {
    "design": "the IsoFLOP lines and columns that a sweep would train",
    "cells": "of it, each one width and number of samples",
    "runs": "seeds of all cells",
    "seconds": "of training and testing on two cores, from measured speeds",
    "tables": "simulated, for the last column",
    "quantity": "whose 95% interval is looked at: the exponent a, E, or the least loss at a compute",
    "expected": "its width over the first design's, by the information matrix",
    "simulated": "the same, mean over simulated tables",
    "varies": "deviation of the width from table to table, as a share of its mean",
}
ARMS_CSV = {
    "arm": "which habit a run has (one rate, long warm-up, one batch, constant rate, all at once), dropout, or what it is "
    "shown: fresh, fresh raw, copies, repeats",
    "schedule": "decay to 0, or constant, with tests on the way: those rows are of one run",
    "warm_up_steps": "where it is not 5% of the run",
    "passes": "how often each image is shown, as it is or as another copy",
    "strength": "what every transformation's range is multiplied by",
    "transformed_test_loss": "nats per test image, transformed once as the sweep's copies are",
    "transformed_test_accuracy": "share of these images",
}
ARMS_JSON = {
    "habits": "for each habit the laws' constants with 95% intervals, by both approaches, and their change (`_change`) from "
    "the usual way, from draws that are paired where cells and seeds are the same",
    "log_loss_change": "mean over cells of log loss with the habit minus without",
    "forms": "the forms of D_eff: misfit, and error of log loss at 16 and 32 copies when fitted up to 8",
    "comparisons": "for each kind, width, strength and test set: x and R of the form, and D_eff / U at each number",
    "first_copy": "fresh images that the second showing of an image is worth",
    "most": "D_eff / U of endless showings",
    "points": "each cell's loss, and its D_eff / U by the fitted fresh curve",
}
