"""API-Net (Attentive Pairwise Interaction) for fine-grained classification in JAX/Flax."""
