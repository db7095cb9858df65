"""Packed rows: several texts share a row, each attending to itself alone."""
