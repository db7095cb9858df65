"""The stages of a build: each looks its product up, else makes and keeps it."""
