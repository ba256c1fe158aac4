"""The decoder in a process of its own, which a hostile file may crash."""
