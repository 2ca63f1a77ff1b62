"""Text to ids and back: SentencePiece, special ids, normalization, subword regularisation. NumPy alone, no JAX."""
