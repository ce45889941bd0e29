"""Pictures of runs: a page that compares them, learning curves, films. Nothing here trains."""
