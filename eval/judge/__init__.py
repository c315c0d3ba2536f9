"""A judge that grades answers, at any OpenAI-compatible endpoint."""
