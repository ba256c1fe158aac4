"""Transcribe from the shell: `python whisper_server.py path/to/audio.m4a`."""

import sys

from whisper_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
