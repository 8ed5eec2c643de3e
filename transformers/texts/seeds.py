"""One seed from two numbers, for everything that is random here."""


def derived_seed(seed: int, number: int) -> int:
    """One 63-bit seed from two numbers; neighbours are unrelated (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (seed * 0x9E3779B97F4A7C15 + number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x >> shift) * factor & 0xFFFFFFFFFFFFFFFF
    return (x ^ x >> 31) >> 1
