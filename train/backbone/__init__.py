"""Training a backbone to fork."""
