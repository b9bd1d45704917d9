"""Optimisers, named as in PyTorch."""
