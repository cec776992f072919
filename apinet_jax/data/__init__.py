"""From files on disk to batches: sources, sampling, transforms, the pipeline."""
