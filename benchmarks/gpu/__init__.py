"""The parts of gpu_check.py: each runs in a process of its own and says why when it cannot."""
