"""Each benchmark prints a ratio against a named peer, measured side by side: `python -m benchmarks.<name>`."""
