"""FLOOR 4: readers, vocabularies and batches; knows NumPy only."""
