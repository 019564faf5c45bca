"""The host-local IPAM plugin: addresses from ranges, reservations as files."""
