"""Results of an ablation table, its verdict and its report."""
