"""Whole clusters in one process: independent workloads, faults and checkers over the production code, under virtual time.

In reading order: `trace` (what happened), `channel` (the coordination store as a node reaches it), `machine` (one host: clock, disks, process, wires),
`world` (all of them), then what runs in it.
"""
