"""Exact daily quotas and abuse windows (USE-1 to USE-8)."""
