"""Views of a run: the live view in a terminal, the report as text, charts."""
