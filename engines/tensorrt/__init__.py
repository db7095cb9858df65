"""The TensorRT backend: one code path for the flavours tensorrt and tensorrt_rtx."""
