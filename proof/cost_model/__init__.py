"""What each node costs: counted from the graph, fitted on the machine, held to measurements."""
