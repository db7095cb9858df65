"""Where a model comes from: alias, folder or hub, and the files of its checkpoint."""
