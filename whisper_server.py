"""Transcribe from the shell: `python whisper_server.py path/to/audio.m4a`."""

from whisper_server.commands import transcribe

if __name__ == "__main__":
    transcribe()
