"""From a table's results to its verdict and its report."""
