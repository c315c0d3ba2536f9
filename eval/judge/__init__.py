"""A judge that grades answers, behind any OpenAI-compatible endpoint."""
