"""AMD XDNA NPUs through pyxrt, real or emulated: one driver for both."""
