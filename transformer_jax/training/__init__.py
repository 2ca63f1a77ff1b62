"""Batch and logits -> better parameters: objective, optimizer, one pure step, the step across devices, the loop."""
