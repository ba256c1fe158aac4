"""Start the server: `python whisper_api_server.py --port 8089`. Also `transcribe FILE`, `models list`."""

from whisper_server.commands import run

if __name__ == "__main__":
    run()
