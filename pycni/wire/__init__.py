"""Results, configs and JSON, per spec version: pure functions between bytes and types."""
