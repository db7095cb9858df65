"""Plots: matplotlib draws, the page colours."""
