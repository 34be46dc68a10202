"""What a device did: the tables of a Profile, the formulas of its summary, SQL over it."""
