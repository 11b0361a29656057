"""The runtimes: one file each, one interface, and the table that names them."""
