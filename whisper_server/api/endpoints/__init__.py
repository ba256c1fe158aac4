"""One file per resource; endpoints do not know one another."""
