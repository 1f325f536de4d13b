"""The console: pages in which people review, and see what the service does; served by `tamis serve` under /console."""
