"""What is measured beside Headway: for each system its worker, and a client that enqueues on orders from a pipe."""
