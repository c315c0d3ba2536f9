"""The modes that are measured, and how each is called and counted."""
