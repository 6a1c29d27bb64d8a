"""The operation log: spans in, one row an operation, nothing lost (LOG-1 to LOG-6)."""
