"""`make bench-notifier`: compare the cost of delivering reports to watchers in Headway's notifier and in its peers."""
