"""What is compared, judged or timed: a PyTorch model, an ONNX file, a bundle, kept results."""
