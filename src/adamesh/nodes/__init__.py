"""Can the machines of a run talk to each other? What `adamesh check --nodes` does on each of them."""
