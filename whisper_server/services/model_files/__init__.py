"""Models by name and on disk: catalog, downloads, conversions."""
