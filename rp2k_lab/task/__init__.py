"""The tasks, one module each with `run(config, folder) -> float | None`."""
