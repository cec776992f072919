"""Which images of a data set are suspicious."""
