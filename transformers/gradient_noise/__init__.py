"""How noisy a gradient is: estimators of the noise scale, and its tracking while a run goes on."""
