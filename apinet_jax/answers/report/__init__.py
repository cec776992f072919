"""The report of a run: what it can and cannot do, as a page and as tables."""
