"""How well a backbone forks, and how well heads draft."""
