"""Names for photos: which class, or which coarser group, and the files that hold the answers."""
