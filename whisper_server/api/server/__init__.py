"""The process that listens: sockets, connection timeouts, start, shutdown."""
