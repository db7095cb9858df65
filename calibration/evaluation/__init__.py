"""The user's own examples: read, answered by a graph, and judged by a metric of the task."""
