"""What is shown of adapters and runs: heatmap, report, tables, scores."""
