"""What a training measures on held-out rows: forks, and what heads draft."""
