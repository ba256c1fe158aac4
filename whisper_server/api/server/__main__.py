"""`python -m whisper_server.api.server`: the server alone, without the other commands."""

from whisper_server.api.server.run import run

run()
