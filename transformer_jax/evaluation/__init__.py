"""Scores of translations: metrics, confidence, comparison, analysis, and the report of a test set."""
