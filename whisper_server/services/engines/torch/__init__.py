"""Models run by PyTorch with transformers."""
