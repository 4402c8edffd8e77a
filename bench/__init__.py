"""Benchmarks, which compare and never assert in a test; docs/performance.md has what they found."""
