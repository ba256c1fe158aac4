"""A local speech-to-text server that speaks OpenAI's audio API."""

# This file must exist: without it the script whisper_server.py beside this folder imports itself.
__version__ = "0.1.0"
