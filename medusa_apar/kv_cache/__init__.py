"""Keys and values by slot, and who may attend to which."""
