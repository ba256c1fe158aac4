"""Configuration, errors, value types and pure checks; knows nothing of audio libraries, models or HTTP."""
