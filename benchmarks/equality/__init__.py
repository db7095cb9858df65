"""Pipelines held to those of transformers and sentence-transformers."""
