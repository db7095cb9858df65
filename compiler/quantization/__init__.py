"""Quantisation in a build: formats, held-out text, the user's examples, the report of it."""
