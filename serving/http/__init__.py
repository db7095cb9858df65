"""Bundles over HTTP on one machine."""
