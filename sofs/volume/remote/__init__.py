"""A volume from another node: the same interface, forwarded.

Gateways hold one `RoutedVolume` for each volume, for the life of the process. While this process coordinates the volume, that is a plain call to
`LocalVolume`; else the request goes to the node that does, and while nobody does, it waits.

Three things have to be the same as with a local volume, although connections break and coordinators change:

*Once.* A question keeps its slot and sequence until it is answered, and is asked again after every break, at whichever node coordinates by then. What
changes something leaves these as a token in its own batch (`sofs.volume.tokens`), with the reply; so it is carried out once, and every answer to it is
the same. What is still under way at the answering side (it waits for a lock, or for a client to give something back) is joined, not begun again, and
keeps its place. What may be repeated has no token (`repeating`).

*In order.* Questions reach the answering side in the order in which they were asked. An answering side that refuses one of an *era* refuses all that
follow; the asking side then asks all of them again, in order, in a new era.

*Never too early.* The answering side answers when the reply's gate is committed and its lease valid, so what it says survives a takeover. What
must be stable is asked for separately, and again after a takeover; if the volume's verifier has changed meanwhile, it is not the same volume any more,
and connections that wait are given up.

In reading order
- `messages`: what is said, as bytes. `repeating`: what may be said twice.
- `serving`: the answering side of a node; `seat`: of one volume that it coordinates, from the takeover to its end; `telling`: upcalls on their way to other
  nodes' gateways.
- `asking`: questions on their way, repeated until they are answered. `forwarded`: the volume's interface over them.
- `routed`: `RoutedVolume`. `routes`: all of a node's, which is what a node's composition makes. `watchman`: shuts out the gateways of processes that are gone.
"""
