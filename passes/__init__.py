"""What rewrites a graph: the pass contract, the pipeline, presets a target, one pass a file."""
