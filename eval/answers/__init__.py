"""Answers in FastChat's files, and where files are looked for."""
