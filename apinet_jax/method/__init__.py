"""The method of the paper: pairs, interaction, losses, optimizer, steps, metrics."""
