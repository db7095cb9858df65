"""The sizes an engine is built for: asked for, derived, or fitted to the lengths of real text."""
