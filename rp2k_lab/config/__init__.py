"""The configuration: schema, choices, ablations, and migration of older records."""
