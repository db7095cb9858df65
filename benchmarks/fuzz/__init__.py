"""Mutated models for `benchmarks/fuzz_optimize.py`: seeds, mutations, and the judge."""
