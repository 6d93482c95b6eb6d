"""NFS version 3 (RFC 1813), complete.

`program` is the table of procedures and the dispatcher; `messages` declares arguments and results; `attributes`, `names`, `directories` and
`data` are the procedures by what they work on; `layout` writes attributes; `pseudo` is the directory above all exports.
"""
