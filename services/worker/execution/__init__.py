"""How attempts run: in the event loop, in threads and in processes."""
