"""Administration: what an operator can ask of a running node, and how the question travels.

- `api`: the requests and answers, as values, and `Operations`, the port that a node implements.
- `server`: HTTP over the socket `admin.sock` in the data directory and, with a token, over TCP; `/metrics` for Prometheus.
- `client`: the other side, used by `sofs` and by tests.
- `records`: what the coordination store holds of pools, volumes, shares and users.
- `metrics`: figures in Prometheus' text form.

Nothing here knows how a node is put together: `sofs/node.py` hands its `Operations` to the server.
"""
