"""Grids of settings over several seeds: specification, results, comparison."""
