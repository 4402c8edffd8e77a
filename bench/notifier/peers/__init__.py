"""The peers, as their documentation recommends, with Redis between replicas. They run in a separate environment."""
