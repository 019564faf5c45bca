"""The `pycni` command: arguments in, the library's verbs called, text or JSON out."""
