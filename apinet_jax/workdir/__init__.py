"""What a run leaves on disk: checkpoints, record, metrics, curves."""
