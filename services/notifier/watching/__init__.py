"""The subscriptions of this replica's clients, and the synchronization of each with the last version of its job."""
