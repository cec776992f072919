"""From a configuration to objects, and what the program chooses for the user."""
