"""A run as it lies on disk: config, folder, checkpoints, policy, metrics. Nothing here trains."""
