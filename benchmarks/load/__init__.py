"""Many clients of an HTTP server, in a process of their own."""
