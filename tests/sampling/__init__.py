"""Of `medusa_apar/sampling/`."""
