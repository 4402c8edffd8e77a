"""The job records in Redis, and the script that reads and changes them."""
