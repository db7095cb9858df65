"""From a PyTorch model to a graph: tasks and the exporter."""
