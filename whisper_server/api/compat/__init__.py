"""Clients that speak OpenAI's API in their own way: what differs, in one place for each."""
