"""Runs forward passes of the backbone: plain, packed, compiled, or from CUDA graphs."""
