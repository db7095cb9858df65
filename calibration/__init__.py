"""Text to batches to statistics to ranges: where INT8 scales come from."""
