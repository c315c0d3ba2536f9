"""`medusa-apar eval scaling`: the modes as threads, rows, answers and backbones grow, a calibrated simulation."""
