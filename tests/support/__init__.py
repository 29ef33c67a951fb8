"""What the tests share: brokers, clocks and networks that fail on request."""
