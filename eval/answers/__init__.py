"""Answers in FastChat's files."""
