"""Norms and activations as the operators they are."""
