"""`python -m whisper_server.api.server`: the server alone, without the other commands."""

from whisper_server.core.system.init_process import begin

begin()

from whisper_server.api.server.run import run  # noqa: E402  (what is imported now takes a moment)

run()
