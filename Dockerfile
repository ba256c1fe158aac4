# The server on a CPU: docker build -t whisper-server . (docs/operations.md says how to run it)
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY LICENSE whisper_api_server.py whisper_server.py ./
COPY whisper_server ./whisper_server
RUN python -m compileall -q whisper_server && \
    useradd --uid 10001 --no-create-home whisper && \
    install -d -o whisper -g whisper /cache

# Models live here; a volume keeps them when the container goes.
ENV WHISPER_CACHE_DIR=/cache WHISPER_SERVER_HOST=0.0.0.0 WHISPER_SERVER_PORT=8089
VOLUME /cache
EXPOSE 8089
USER 10001

HEALTHCHECK --interval=15s --timeout=5s --start-period=15s --retries=4 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['WHISPER_SERVER_PORT']), timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

# The end in order needs more time than WHISPER_SHUTDOWN_GRACE_S: docker stop --time 30.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "whisper_api_server.py"]
