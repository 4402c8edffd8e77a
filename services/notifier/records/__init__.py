"""The jobs' records in Redis, and the one script that reads and changes them."""
