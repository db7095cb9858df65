"""Requests to batches, formed when an engine is free."""
