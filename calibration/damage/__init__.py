"""What INT8 does to the answer: as a whole, by linear, by tensor; and a budget for it."""
