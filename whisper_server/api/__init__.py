"""The HTTP face: the only place that imports a web library."""
