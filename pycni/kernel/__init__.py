"""The kernel shell: rtnetlink batches, namespaces, sysctls, nftables and iptables."""
