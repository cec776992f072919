"""The two sides of `benchmarks/against_torch.py`, each in a process of its own."""
