"""Devices behind one Protocol; an SDK is imported only inside the module that needs it, and only when used."""
