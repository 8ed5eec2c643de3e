"""One update of vanilla policy gradient: collect, estimate advantages, step the policy, fit the values."""
