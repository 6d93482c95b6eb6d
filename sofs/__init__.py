"""sofs: a scale-out file server. README.md walks through the source in reading order.

The modules beside the packages put a node together: `node` (all of it), `assembly` (what of it lies below the gateways), `records` (what the coordination
store holds), `doors` (gateways), `processes` (which nodes' processes run), `homes` and `neighbours` (how the gateways of several nodes go together: whose
NFSv4.1 clients are where, SMB sessions that move), `vips` (the node's virtual addresses), `supervision` (that a process has ended is known at once),
`service` (`sofsd`), `config`, `quieting` (how much strangers can make it log); and `types`, `errors` and `encoding` (structures as bytes), which all share.
"""
