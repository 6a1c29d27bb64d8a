"""Examples that run: a domain service for a clinic, and the demo."""
