"""Learning rates: one for each kind of parameter, and the schedules, which are factors on all of them."""

# Learning rates by kind of parameter. In the paper's setting, the factor on its eq. 3.
MUON_RATES = {"matrix": 0.02, "embedding": 0.03, "ngrams": 0.01, "head": 0.004, "scalar": 0.03}
ADAM_RATES = {"matrix": 0.003, "embedding": 0.03, "ngrams": 0.01, "head": 0.004, "scalar": 0.03}
PAPER_RATE = 0.12
WARMUP, FLAT = 20, 0.4  # steps of warm-up, and the fraction of the run after which the rate falls to 0
PAPER_WARMUP = 0.04  # of the run: the paper's 4,000 of 100,000 steps
LINEAR_RATE, LINEAR_WARMUP = 0.004, 0.1  # of the paper's decoder with the other schedule: its peak, and where that is


def warmup_steps(steps: int) -> int:
    """WARMUP, but at most a tenth of a run: a short one is to reach its rate too."""
    return min(WARMUP, max(1, steps // 10))


def trapezoid(step: int, steps: int, warmup: int, flat: float) -> float:
    """Linear warm-up, then 1 until the fraction `flat` of all steps, then linear to 0 at `steps` (Zhai et al. 2022)."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * min(1.0, (steps - step) / max(1.0, steps * (1 - flat)))


def inverse_sqrt(step: int, width: int, warmup: int) -> float:
    """width^-0.5 min(s^-0.5, s warmup^-1.5) with s counted from 1 (Vaswani et al. 2017, eq. 3)."""
    s = step + 1
    return width**-0.5 * min(s**-0.5, s * warmup**-1.5)
