"""Where the weights of a plan are: in it, beside it in the bundle's graph, or streamed."""
