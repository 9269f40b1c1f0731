"""Servers and clients of the push benchmarks, each a process of its own."""
