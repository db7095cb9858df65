"""The sizes an engine is built for: asked for, derived from the model, or fitted to real lengths."""
