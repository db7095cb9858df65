"""From statistics to ranges: estimators, smoothing, and the search between them."""
