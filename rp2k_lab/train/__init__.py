"""Build, checkpoint, resume and verify a training."""
