"""Question sets, speed, and the tables and plots over them."""
