"""Blocks of samples to windows: where speech is, and its spectrogram."""
