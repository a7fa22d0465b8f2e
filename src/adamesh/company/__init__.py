"""A company of worker processes: sentinels that watch and vote, and a Gloo group for every epoch."""
