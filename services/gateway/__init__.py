"""The gateway: from an instruction to a partial outcome report."""
