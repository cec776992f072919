"""Answers beyond the classes of a run: unknown photos, and classes added without training."""
