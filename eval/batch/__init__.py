"""`medusa-apar eval batch`."""
