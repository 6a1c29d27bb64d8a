"""The services of Gatehouse."""
