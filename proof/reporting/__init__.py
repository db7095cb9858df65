"""The report: one HTML file that says what a bundle is worth, and what was not checked."""
