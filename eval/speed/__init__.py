"""`medusa-apar eval speed`."""
