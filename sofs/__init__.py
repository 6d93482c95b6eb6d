"""sofs: a scale-out file server. README.md walks through the source in reading order.

The modules beside the packages put a node together: `node` (all of it), `records` (what the coordination store holds), `hosting` (pools and volumes),
`doors` (gateways), `processes` (which nodes' processes run), `homes` and `neighbours` (how the
gateways of several nodes go together: whose NFSv4.1 clients are where, SMB sessions that move), `service` (`sofsd`), `config`, `quieting` (how much
strangers can make it log); and `types` and `errors`, which all share.
"""
