"""The paragraph tree of an answer: threads, control tokens, reading order, where it stops."""
