"""Random-weight families, exported the ways their users export them."""
