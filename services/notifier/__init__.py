"""The notifier: stores job records in Redis and sends every change to the clients that watch the job."""
