"""The runtime: ports to time, chance, disks and network, with real and simulated adapters."""
