"""The loopback plugin: brings the lo of a sandbox up."""
