"""The runtime: how the code reaches time, chance, disks and the network, and how a simulation takes their place.

`ports` says what there is: `Clock`, `Random`, `Files` with `Records`, `Network`. Beside it stand two families of adapters:

- `system_*`, on the host itself: the event loop's clock, the kernel's random numbers, files read through the page cache or a pool of threads,
  LMDB, TCP;
- `simulated_*`, in memory and from a seed: a loop under virtual time, disks that lose, tear and corrupt what was not synced, networks that
  delay and part. The fault model stands at the top of each module.

`later` is an answer that is not there yet: who waits for it is called in the moment it comes. `whole` reads and replaces small files over either
family, `durable` the host's own ones, with their rights. Both families pass the same contract suites (tests/contracts). The runtime knows nothing of what is
stored or sent; operating system errors end here and become outcomes (`system_errors`).
"""
