"""One HTML file with everything that is known about a bundle."""
