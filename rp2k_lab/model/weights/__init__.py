"""External weights: PyTorch's files as arrays, and the mapping of their names to our networks."""
