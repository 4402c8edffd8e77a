"""`make bench-worker`: compare CPU time per job, start latency and memory of Headway's worker and its peers."""
