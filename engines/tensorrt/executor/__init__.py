"""What runs an open plan: lanes, their contexts, buffers and CUDA graphs, and who gets which."""
