"""The documentation: Markdown pages, and the programs that generate parts of them (`docs.generate`)."""
