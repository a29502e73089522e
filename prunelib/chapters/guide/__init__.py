"""What this run says to an engineer: the smallest model that still does a task, its size and its speed."""
