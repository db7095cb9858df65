"""What a target runs faster than the canonical form."""
