"""FLOOR 6: one file a task: its data, model, loss and metric in one place."""
