"""Wire types of ``borgcell.v1``, generated from the protos beside this file (``make proto``)."""
