"""Drafters: what heads of each kind propose after pending tokens."""
