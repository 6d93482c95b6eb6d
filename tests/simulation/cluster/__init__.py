"""Whole clusters in one process: independent workloads, faults and checkers over the production code, under virtual time.

A seed decides everything: how many nodes, which volumes, who works on them, what goes wrong and when. Nodes are what `sofsd` runs
below its gateways (`sofs.assembly`): membership, interconnect, hosting, pools over the disks of all nodes, replicated volumes, routes to
them. Clients stand where the gateways do: they hold a `RoutedVolume` at some node, repeat requests with their tokens at another one, and
have a gateway that they left shut out.

In reading order: `trace` (what happened), `channel` (the coordination store as a node reaches it), `machine` (one host: clock, disks,
process, wires), `world` (all of them), `cluster` (what a node is, and what is checked all the time), `client`, `workloads`, `members`
(what operators do), `faults`, `replicas`, `scenario` (one seed), `layers` (the shapes that seeds choose from), `soak` (many seeds), `broken` and
`mutations` (the proof that all this can fail).

Which invariant of DESIGN.md section 10 is checked where:

    nothing acknowledged is lost, by level         workloads slots, appends, trees, names
    a directory, a file is linearizable            names (all orders are tried), appends (one row, seen ever longer), slots
    renames are whole                              ring
    no lock granted twice, none left behind        locks (both protocols' kinds; persistent handles that are reconnected elsewhere)
    a token executes once                          appends (twice is seen), names; also of requests that a gateway repeats by itself
    nothing from a superseded gateway              slots, appends, locks: clients leave gateways that are paused or cut off, and go on elsewhere
    one serves at any moment of true time          Cluster.check_one_serves, with every answer
    same (version, position), same bytes           Replicas.look, over all that lies on any disk, in the middle and at the end
    replicas converge                              Replicas.converged
    extents, references, checksums, counts         Cluster.check_volumes: `sofs check` with all data
    the verifier changes when it must              slots, appends (it did not: lost), Cluster.answered (it did: nothing can be lost)
    everybody is answered, everything made whole   Client.send, Cluster.recovered: when the faults are over
    no node survives a bug of its own              SimulatedLoop.failures, events
"""
