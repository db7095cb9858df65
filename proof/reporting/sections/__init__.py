"""One file a section of the report: facts in, words, tables and pictures out."""
