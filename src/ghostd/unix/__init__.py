"""
Effects: small doors to the kernel, each usable and testable alone.

Nothing in here decides anything about a pool, and nothing imports from the rest of
ghostd but its errors and values.
"""
