"""Where a run computes: CPU, GPU or Ascend, one process or several."""
