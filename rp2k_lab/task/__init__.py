"""What `task=` runs, a module a task: each has `run(config, folder) -> float | None`."""
