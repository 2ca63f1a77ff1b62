"""From text to batches: corpus, tokenizer, store, batching, stream. NumPy only; nothing here imports JAX."""
