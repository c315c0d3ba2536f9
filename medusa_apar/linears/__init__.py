"""Linear layers of a few rows on the CPU: with packed weights, or in 8-bit integers."""
