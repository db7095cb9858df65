"""How well answers fit what was expected: one metric a file, all of them functions of rows."""
