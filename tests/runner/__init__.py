"""Of `medusa_apar/runner/`."""
