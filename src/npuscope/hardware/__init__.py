"""Facts about devices: TOML with a source per number, and the host processor as detected."""
