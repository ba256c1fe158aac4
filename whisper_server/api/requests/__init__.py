"""The bytes of a request to checked values, with every bound on both encodings."""
