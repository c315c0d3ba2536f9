"""Draft trees: what heads propose, and how much of it a step carries."""
