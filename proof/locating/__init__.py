"""Where two subjects first diverge, layer by layer."""
