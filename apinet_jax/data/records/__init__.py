"""TFDS builders that copy encoded images into array_record files, and image folders."""
