"""What stands in the files of a plan, and in the tables of the studies behind it: docs/runs.md is made from these."""

PLAN_JSON = {
    "asked": "flops, minutes, loss, or nothing (four times the largest compute behind the law)",
    "amount": "of what was asked",
    "law": "fits.json and its hash, the form that predicts, the forms that count and their weights, data set and runs",
    "cell": "width, n_params, macs, n_samples and flops of the net that is planned",
    "seeds": "of its runs",
    "loss": "predicted geometric mean of the test losses, 95% prediction interval, and that beyond these test images",
    "error_rate": "the same of the error rate",
    "half_width": "of the loss's prediction interval, in logs",
    "half_width_of_seeds_alone": "what the seeds' noise would leave of it",
    "compute_of_the_loss": "with --loss: the compute it takes, and its 95% interval",
    "optimum": "95% intervals of the best size, samples and width at that compute",
    "region": "the smallest and the largest net within a share of the least loss; open where there is no largest",
    "twice_too_large": "what such a net costs: increase of the loss, and the share of the compute that would do as well",
    "twice_too_small": "the same of a net of half the size",
    "extrapolation": "factor beyond the largest (above 1) or short of the smallest (below 1) of the law's runs",
    "measured": "null before the training; then what summary.json has",
}
SUMMARY_JSON = {
    "losses": "test loss of each run",
    "diverged": "runs that diverged",
    "loss": "geometric mean of the others",
    "error_rate": "geometric mean of their error rates",
    "log_error": "log measured loss minus log predicted",
    "inside": "whether the measured loss lies in the prediction interval",
}
COVERAGE_CSV = {
    "case": "which synthetic tables",
    "quantity": "whose 95% interval is looked at",
    "trials": "tables, or cells beyond them",
    "covered": "intervals that hold the true value",
    "half_width_per_1.96_sd": "mean half-width over 1.96 deviations of the values found",
}
IMAGE_LOSSES_CSV = {
    "test_error": "share of the test images that are wrong",
    "sd_log_loss": "deviation of the log test loss over draws of the test images",
    "sd_log_error": "the same of the log error rate",
    "correlation_with_other_cells": "of the log loss, over the same draws, mean over cells of other widths",
}
