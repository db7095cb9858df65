"""Engines of one model in several precisions, and the fastest of them within the budget."""
