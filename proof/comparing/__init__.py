"""Two subjects on the same inputs: how far apart their answers are, and whether that is too far."""
