"""Readers of text, tables, music, word vectors and images; vocabularies; batches. Knows NumPy only."""
