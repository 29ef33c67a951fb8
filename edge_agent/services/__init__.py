"""Long-lived tasks that carry out what the core decides, through the ports."""
