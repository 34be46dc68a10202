"""How a shape maps onto a device: closed forms, no measurement."""
