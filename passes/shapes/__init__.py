"""What is known of every value before a model runs: dtype, symbolic sizes, contents of shapes."""
