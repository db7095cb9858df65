"""Requests of many clients to one engine: batches by tokens, HTTP, clusters."""
