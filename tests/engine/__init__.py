"""Of `medusa_apar/engine/`."""
