"""Of `benchmarks/`."""
