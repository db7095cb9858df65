"""What holds a graph or an engine to the numbers, blocks and kernels it promises."""
