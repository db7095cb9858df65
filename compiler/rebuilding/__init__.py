"""Engines for this machine from what is in a bundle: no PyTorch, no model, no text."""
