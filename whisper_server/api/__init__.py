"""HTTP and WebSocket: the only room that imports a web library."""
