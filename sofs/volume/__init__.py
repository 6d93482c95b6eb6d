"""The volume: files, directories, locks and space over one log and one pool.

File-system logic runs only on the coordinator and ends in one batch; one pure `apply`, the same on every replica, changes
the records. `api.py` is what gateways see; `keys.py` is the whole key space; `keyspace.py` is the overlay over LMDB.
"""
