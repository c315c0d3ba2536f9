"""`medusa-apar eval serving`: what threads are worth on vLLM under load."""
