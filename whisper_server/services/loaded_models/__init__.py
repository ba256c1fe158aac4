"""Models in memory: leases, eviction, loading, unloading."""
