"""Weights from elsewhere: PyTorch's files as arrays, and their names in our networks."""
