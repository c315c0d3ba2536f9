"""What writes answers: our own decoder, vLLM, or servers elsewhere."""
