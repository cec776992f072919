"""The drawn birds of the demo: species, pose, plumage, scene, and their TFDS builder."""
