"""A domain service of a clinic: clients, finance and appointments on Postgres (DOM-2)."""
