"""From a run's events to a plot: series, layout, drawing, export."""
