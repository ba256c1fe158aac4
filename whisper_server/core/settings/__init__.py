"""Groups of settings, joined by config.py."""
