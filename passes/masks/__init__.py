"""Attention masks: what one means, how it is found out, written, and read back.

meaning    which keys a query may attend to, as a value
cone       the subgraph a mask is computed with
run        running it
sizes      which named sizes are the batch, the queries, the keys
probe      from a subgraph to its meaning, by running it
write      the canonical nodes of a meaning
read       the meaning of canonical nodes
soften     finite fills for masks that are left as they are

`replace_blends` and `simplify_attention_mask` are the passes.
"""
