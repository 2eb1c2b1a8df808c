"""`make chaos`: two nodes, twenty people who call all the time, and whatever can break breaks."""
