"""What makes graphs of every exporter alike, so that rules need to know one spelling."""
