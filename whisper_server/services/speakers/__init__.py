"""Who speaks when: voices told apart by their sound."""
