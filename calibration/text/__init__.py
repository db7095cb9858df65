"""Calibration text: sources, the draw, tokens, batches without padding, a survey."""
