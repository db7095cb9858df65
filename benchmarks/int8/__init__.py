"""Parts of int8_peers.py: environments, workers, the judge, the race and the tables."""
