"""The configuration: its schema, its choices, and how older records are read."""
