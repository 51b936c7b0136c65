"""Devices: CPU, GPU or Ascend, in one process or several."""
