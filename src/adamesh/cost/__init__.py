"""What training will cost before one has the machines: memory, bytes and time of plans, and fleets of thousands."""
