"""Who watches which job on this replica, and how every watcher gets the last version of it."""
