"""Pretrained weights: files, the hub, recognition, names in PyTorch's state dicts."""
