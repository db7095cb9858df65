"""Faults that are planted into good graphs, to see them found."""
