"""Start the server: `python whisper_api_server.py --port 8089`."""

from whisper_server.api.server import run

if __name__ == "__main__":
    run()
