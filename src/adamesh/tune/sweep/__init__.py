"""The best of many settings: Optuna proposes them, trials are runs, those that fall behind are ended."""
