"""What TensorRT refuses, or reads otherwise than ONNX says: one rule for each trap."""
