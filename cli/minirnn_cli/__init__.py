"""FLOOR 7: the command line. Parse, call a task, show what it yields."""
