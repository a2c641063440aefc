"""Pictures and tables of adapters and runs: heatmap, report, layer table, scores."""
