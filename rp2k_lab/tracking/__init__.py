"""The record of a run, from its journal to MLflow, and the lookup of earlier runs."""
