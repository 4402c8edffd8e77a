"""The index of all jobs: sorted sets that are derived from the records, and from which lists of jobs are read."""
