"""Of `medusa_apar/drafting/`."""
