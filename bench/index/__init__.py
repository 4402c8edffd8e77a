"""The benchmark of lists of jobs: `python -m bench.index`."""
