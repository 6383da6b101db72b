"""Generated against held-out events: two-sample statistics, physics laws, histograms."""
