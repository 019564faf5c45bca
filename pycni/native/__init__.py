"""The launcher as a small C program: compiling it, and filling in what one executable must know.

`launcher.c` does what `pycni.launcher` does, without an interpreter's start. Where no agent takes the call it
becomes a Python process that goes on in `pycni.native.takeover`.
"""
