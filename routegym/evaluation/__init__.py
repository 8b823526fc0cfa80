"""Roll-outs, the exact oracle, frontier metrics, confidence intervals, tables and pictures."""
