"""Attention as the operator it is: heads, groups, caches."""
