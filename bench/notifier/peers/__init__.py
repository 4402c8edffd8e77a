"""The peers: each as its documentation has it, with Redis between its replicas; run in an environment of their own."""
