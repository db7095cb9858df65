"""Proof for the user: that an engine answers like the model, how well, how fast, and why."""
