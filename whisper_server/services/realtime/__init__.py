"""Live sessions: sound in as it is said, turns and their text out, in the events of OpenAI's realtime API."""
