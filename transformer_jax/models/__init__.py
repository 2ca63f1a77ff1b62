"""Batch -> logits: linen modules that know nothing of data, training or search."""
