"""Serving: threads of an answer as requests of an engine, behind an OpenAI-compatible server."""
