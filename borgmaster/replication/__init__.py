"""The replicated log on PySyncObj, and all that makes it keep its promise."""
