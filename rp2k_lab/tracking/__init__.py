"""A run's record: first to a journal in its folder, from there to MLflow; and earlier runs read back."""
