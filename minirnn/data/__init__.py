"""Readers of text, tables, music, recordings, word vectors and images; vocabularies; batches. Knows NumPy only."""
