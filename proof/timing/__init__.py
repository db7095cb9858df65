"""How fast subjects are, and which differences are more than noise."""
