"""Training draft heads, alone or with their backbone."""
