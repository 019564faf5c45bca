"""What the tests share: namespaces, observation, calls of plugins, the replay of recordings."""
