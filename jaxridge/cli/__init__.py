"""The command line ``jaxridge sweep | predict | info``."""
