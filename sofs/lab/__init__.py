"""A cluster on one machine, for trying out and for tests: real etcd, real nodes, real faults.

    DIR/lab.json       what the lab consists of (`plan`)
    DIR/n1 ...         a node's data directory, with its configuration and its disks; DIR/n1.log its log
    DIR/e1 ...         an etcd member's data; DIR/e1.log
    DIR/control.sock   where it is told what to do while it runs (`control`)

`lab` puts it together: `etcd` says how a member is run, `node` how a node is, `setup` makes a cluster of empty ones as an operator would. `network` is there
with `--netns` only, `images` with `--images`. `process` holds the children, `readiness` hears that a node serves. Nothing the lab starts survives it, however
it ends: processes die with it (their parent-death signal), and namespaces, which have no names, with the processes in them.

It is its nodes' supervisor: it reaps them at once and records their deaths (`sofs.supervision`), and starts them again only when told.
"""
