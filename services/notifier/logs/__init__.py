"""The logs of jobs: kept in Redis, received from workers, and sent to the clients that follow them."""
