"""Start the server: `python whisper_api_server.py --port 8089`."""

import sys

from whisper_server.api.server import main

if __name__ == "__main__":
    sys.exit(main())
