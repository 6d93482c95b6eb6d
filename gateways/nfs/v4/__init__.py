"""NFS version 4, minor versions 1 and 2 (RFC 8881, RFC 7862, RFC 8276).

A client sends COMPOUNDs: lists of small operations that share a current and a saved filehandle and stateid. In reading order: `types` has what
several operations' messages are made of; `operation` what a handler may answer and what must hold before it is called; `compound` is the state that
operations share, and carries them out one after the other; `table` has one line per operation; `program` takes COMPOUNDs off the wire. `stateids`
finds the open, lock or delegation behind a stateid.

`clients`, `sessions` and `slots` know who the client is, what makes its retries harmless, and how it is called back (`backchannel`); `service` is a
server instance, what all its connections share, `records` what of it outlives the process, `recalls` how delegations come back, `departing` the end of
clients and sessions. In a cluster there are several server instances, `groups`, each at home on one node: `loading` brings one up on a node, `restoring` its
clients' state when they come, `grace` is for what they have lost, `underway` for what the group's former service has left unanswered, and `forwarding` for
clients that come to another node.
`status` maps outcomes. The remaining modules are operations, one module per group, and what they are made of: `attributes` writes a file's attributes
and `settable` reads those that a client sets, `owners` and `acls` say the same of users and rights as SMB does, `facts` is what attributes depend on
beside the file, `delegated` what only the holder of a write delegation knows of it.

The operations: `exchange` (clients come and go), `sessions`, `security`; `filehandles`, `names`, `directories`, `metadata`, `xattrs`; `data`,
`sparse`, `copying`; `opening`, `states`, `locking`. Those of files have their lines of the table in `file_operations`.

A handler decides; it does no I/O and does not know sessions. What it wants of a volume it returns as an `Ask`, and so a COMPOUND that a crash cut in
two goes on behind the last operation that a volume has recorded.
"""
