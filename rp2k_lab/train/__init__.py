"""Build a training, run it, checkpoint it, resume it."""
