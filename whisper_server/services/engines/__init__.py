"""The inference libraries, each behind the Engine protocol; the only place that imports them."""
