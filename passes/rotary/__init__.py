"""Rotary position embeddings as the operator they are."""
