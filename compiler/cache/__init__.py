"""Products of stages kept between builds: where, under which keys, for how long."""
