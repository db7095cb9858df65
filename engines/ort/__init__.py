"""The ONNX Runtime backend: the engine any CPU can run, and the CUDA execution provider."""
