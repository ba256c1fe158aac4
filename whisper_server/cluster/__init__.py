"""The same API on a Ray cluster: fronts and model replicas that scale apart."""
