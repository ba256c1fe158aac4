"""What the server does, from bytes to text; knows nothing of HTTP or of the command line."""
