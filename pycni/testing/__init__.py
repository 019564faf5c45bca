"""What plugin authors use in their tests: a simulated node, without root (`pycni.testing.fake`)."""
