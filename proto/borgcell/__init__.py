"""The vocabulary of the cell: shared values, and their wire form in ``borgcell.v1``."""
