"""The submitter: the pages and the API that put jobs on the queue."""
