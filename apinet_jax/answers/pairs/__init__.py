"""Whether two photos show the same class, and what the network compares in them."""
