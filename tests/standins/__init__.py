"""Stand-ins for SDKs whose hardware is not at hand; each refuses what the real one refuses."""
