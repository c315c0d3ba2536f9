"""`python -m benchmarks.scaling`: the modes as threads, rows, answers and backbones grow, a calibrated simulation."""
