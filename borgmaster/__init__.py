"""The Borgmaster: replicated cell state, controllers, links to the Borglets and the API."""
