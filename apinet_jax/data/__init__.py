"""From files on disk to batches: builders, sources, sampling, transforms, the pipeline."""
