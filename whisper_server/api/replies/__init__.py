"""Values to the bytes of a reply: schemas and Server-Sent Events."""
