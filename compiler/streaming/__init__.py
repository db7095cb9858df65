"""Files of any size through a bundle: read, answered and written chunk by chunk, resumable."""
