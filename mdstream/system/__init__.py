"""What the operating system gives: processes, clocks, files in shared places, open files."""
