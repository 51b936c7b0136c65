"""Predictions, metrics, tables, figures and the closing table of a run."""
