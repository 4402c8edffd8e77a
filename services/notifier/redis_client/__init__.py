"""The Redis client: multiplexed connections, topologies (standalone, Sentinel, Cluster) and subscriptions."""
