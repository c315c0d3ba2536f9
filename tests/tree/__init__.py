"""Of `medusa_apar/tree/`."""
