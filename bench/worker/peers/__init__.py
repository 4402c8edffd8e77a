"""The systems that Headway is compared with: for each a worker, and a client that gets commands through a pipe."""
