"""One TFDS builder for each data set; encoded bytes go into array_record untouched."""
