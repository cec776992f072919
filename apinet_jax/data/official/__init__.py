"""The data sets of the literature, read from their official archives or folders."""
