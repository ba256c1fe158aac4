"""Whisper's rules, the same for every engine."""
