"""Whole layers under a deterministic loop with virtual time, with crashes and faults at any step."""
