"""Others' conformance suites against a node of our own: `make conformance`.

`node` starts a node on free ports with an empty share, afresh for each suite, as leftovers make tests fail the next time. Each suite has one module that
knows how to drive its tester and to read what it prints: `smbtorture` (Debian's samba-testsuite, `smb2.*`), `pike` (from PyPI), `pynfs` (a built tree
that PYNFS_DIR points at). `results` compares what came out with the peer's baseline (`baselines/NAME.json`) and with the known misses (`misses/NAME.toml`,
each with its reason). A test that fails without being a known miss makes the run fail.

The node is what everybody runs, but that for smbtorture it acts, when it is asked to, as if a client's acknowledgements got lost (`unacknowledged`), as
Samba's own does: some twenty tests of breaks and replays would otherwise need packet filters.

A suite's result is a measure, not the specification: where a test contradicts MS-SMB2 or an RFC we follow the document, and say so in the misses.
"""
