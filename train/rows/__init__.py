"""From conversations, as files have them, to tree-packed rows of tokens."""
