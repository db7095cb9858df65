"""How well subjects do on the user's examples."""
