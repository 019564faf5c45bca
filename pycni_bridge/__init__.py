"""The bridge plugin: a veth pair, its host side a port of a Linux bridge."""
