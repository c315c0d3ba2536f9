"""Ready training recipes."""
