"""A file to blocks of samples, with every limit on audio."""
