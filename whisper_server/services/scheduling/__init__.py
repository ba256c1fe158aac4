"""Windows of all requests to batches on worker threads, in a fair order."""
