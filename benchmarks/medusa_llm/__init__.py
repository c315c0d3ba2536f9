"""Decoding beside medusa-llm on the same weights: same greedy tokens, both speeds."""
