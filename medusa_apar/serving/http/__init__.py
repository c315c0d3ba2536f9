"""The HTTP server: OpenAI's interface around anything that writes answers."""
