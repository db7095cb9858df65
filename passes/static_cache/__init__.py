"""A growing key/value cache as a buffer of fixed size, for TensorRT."""
