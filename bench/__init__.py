"""Benchmarks. They compare systems and are not part of the tests; docs/performance.md has the results."""
