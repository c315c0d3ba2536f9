"""Comparisons that developers run, from the top of a checkout: `python -m benchmarks.NAME --help`."""
