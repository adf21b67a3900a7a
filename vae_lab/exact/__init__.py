"""Ground truth: exact gradients and variances, and models whose optimum is known."""
