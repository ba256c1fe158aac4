"""Work that outlives its request: kept in a database, and taken up again after a stop."""
