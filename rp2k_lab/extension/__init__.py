"""New products without retraining: the gallery of a trained network's features, and what is enrolled into it."""
