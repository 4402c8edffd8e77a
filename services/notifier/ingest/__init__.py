"""The endpoints that receive the reports of workers."""
