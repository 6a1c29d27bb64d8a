"""Plans, who has which, and the descriptors of the domains."""
