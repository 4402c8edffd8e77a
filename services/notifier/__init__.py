"""The notifier: keeps the jobs' records in Redis and shows every change of them to whoever watches."""
