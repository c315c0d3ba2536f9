"""Of `medusa_apar/kv_cache/`."""
