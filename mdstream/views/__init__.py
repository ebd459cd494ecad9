"""What people see of a run: the live view in a terminal, and the report at the end."""
