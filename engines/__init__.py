"""What builds and runs: one sub-package a backend, the bundle, and the text runtimes."""
