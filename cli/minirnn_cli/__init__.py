"""The command line: parses, calls a task, shows the result."""
