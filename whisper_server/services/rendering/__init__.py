"""A transcript to the body of a reply; pure."""
